"""
Choose the settings of defences on held-out training images, never on test points.

usage: choose_settings.py --dataset NAME [--of NAME,NAME...] [--trials N] [--rounds N] [--minutes N] [--out DIR]
                          [suite options: --eps, --epochs, --train-size, --model, --budget ...]

By successive halving: the same number of trials and epochs for each defence (docs/experiments.md). All trials are in
OUT/trials.json, from where the same command goes on; OUT/chosen.md has the tables. With --grid the fixed candidates of
`art_sensreg/benchmark/studies/choose_settings.py` are tried instead, one run of the suite each, into OUT/validation.md:
so were the values in `art_sensreg/presets.py` chosen that docs/results/*-validation.md show.
"""

import argparse
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path

from art_sensreg.benchmark.cli.arguments import OneLineParser, positive_number, whole_number
from art_sensreg.benchmark.cli.console import run_program, say
from art_sensreg.benchmark.cli.suite_parser import make_parser, request_of
from art_sensreg.benchmark.config.request import SuiteRequest
from art_sensreg.benchmark.defences.registry import DEFENCES
from art_sensreg.benchmark.defences.search_spaces import SPACES
from art_sensreg.benchmark.results.store import environment, environment_line
from art_sensreg.benchmark.results.writing import write_text
from art_sensreg.benchmark.studies import halving
from art_sensreg.benchmark.studies.choose_settings import GRIDS, RULE, try_candidates
from art_sensreg.utils.checks import did_you_mean
from art_sensreg.utils.files import usable_folder
from art_sensreg.utils.text import fenced

# What the protocol of a search fixes.
_FIXED = ("--set", "--seeds", "--attacks", "--defences", "--audit", "--resume")


def main() -> int:
    parser, request, given = read_arguments()
    command = fenced(shlex.join(["python", "benchmarks/choose_settings.py", *sys.argv[1:]]))
    if given.grid:
        text = f"{grid(request, given, command).rstrip()}\n\n{environment_line(environment('cpu'))}\n"
        write_text(given.out / "validation.md", text)
        say(text)
        return 0
    try:
        search = halving.Search(request=request, trials=given.trials, rounds=given.rounds, points=given.points)
        return halve(search, given, command)
    except (ValueError, OSError) as error:
        parser.error(str(error))


def read_arguments() -> tuple[OneLineParser, SuiteRequest, argparse.Namespace]:
    form = argparse.RawDescriptionHelpFormatter
    parser = OneLineParser(prog="choose_settings.py", description=__doc__, formatter_class=form, allow_abbrev=False)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--out", type=Path, default=None, help="default: results/DATASET-search, or -validation")
    parser.add_argument("--of", default="sr+jr,jr", help="default: %(default)s")
    parser.add_argument("--grid", action="store_true", help="try the fixed candidates instead")
    parser.add_argument("--trials", type=whole_number, default=8, help="of each defence (default %(default)s)")
    parser.add_argument("--rounds", type=whole_number, default=3, help="default %(default)s")
    parser.add_argument("--points", type=whole_number, default=300, help="images attacked (default %(default)s)")
    parser.add_argument("--minutes", type=positive_number, help="stop at the end of a unit of work")
    given, rest = parser.parse_known_args()
    given.of = given.of.split(",")
    known = GRIDS if given.grid else {name: space for name, space in SPACES.items() if name in DEFENCES}
    unknown = [name for name in given.of if name not in known]
    if unknown:
        parser.error(
            f"`--of` names {', '.join(unknown)}; expected some of {', '.join(known)}{did_you_mean(unknown[0], known)}"
        )
    fixed = [option for option in _FIXED if any(word.partition("=")[0] == option for word in rest)]
    if fixed and not given.grid:
        parser.error(f"`{fixed[0]}` was given; expected none with a search, which settles it by itself")
    kind = "validation" if given.grid else "search"
    given.out = given.out or Path("results") / f"{Path(given.dataset).stem}-{kind}"
    try:
        request = replace(request_of(make_parser().parse_args(rest)), dataset=given.dataset, verbose=False)
        usable_folder("--out", given.out)
    except (argparse.ArgumentTypeError, OSError, ValueError) as error:
        parser.error(str(error))
    return parser, request, given


def halve(search: halving.Search, given: argparse.Namespace, command: str) -> int:
    """The exit code: 0, 1 if a defence could not be trained at all, or 3 if the time was over."""
    end = None if given.minutes is None else time.monotonic() + 60 * given.minutes
    sections, chosen = [], True
    for name in given.of:
        left = None if end is None else max((end - time.monotonic()) / 60, 1e-3)
        best = halving.search_settings(search, name, given.out, left, say)
        if best is None:
            say("stopped: the time is over; the same command goes on")
            return 3
        trials = list(halving.Trials(given.out / "trials.json", search.protocol()).found)
        table = halving.trials_table([trial for trial in trials if trial.defence == name]).as_markdown()
        words = ", ".join(f"`{option}` {value}" for option, value in best.options.items()) or "the defaults"
        if best.clean is None:
            words, chosen = f"nothing: no trial could be trained ({best.reason})", False
        sections.append(f"## {name}\n\n{table}\n\nChosen: {words}.")
    machine = environment_line(environment("cpu"))
    text = "\n\n".join(["# Search on held-out training images", command, halving.RULE, *sections, machine]) + "\n"
    write_text(given.out / "chosen.md", text)
    say(text)
    return 0 if chosen else 1


def grid(request: SuiteRequest, given: argparse.Namespace, command: str) -> str:
    """The page of the fixed candidates."""
    sections = []
    for name in given.of:
        table, settings = try_candidates(request, name, given.out)
        words = ", ".join(f"`{option}` {value}" for option, value in settings.items())
        sections.append(f"## {name}\n\n{table.as_markdown()}\n\nChosen: {words}.")
    return "\n\n".join(["# Candidates on held-out training images", command, RULE, *sections]) + "\n"


if __name__ == "__main__":
    sys.exit(run_program(main))
