"""
Choose the settings of our defences on held-out training images, never on test points.

usage: choose_settings.py --dataset NAME [--of NAME,NAME...] [--data-dir DIR] [--out DIR] [suite options ...]

Runs the suite with --validation once for each candidate (`art_sensreg/benchmark/studies/choose_settings.py`), and
writes one table of all candidates to OUT/validation.md, with the one that the rule chooses. The values in
`art_sensreg/presets.py` were chosen in this way.
"""

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from art_sensreg.benchmark.cli.arguments import OneLineParser
from art_sensreg.benchmark.cli.console import run_program, say
from art_sensreg.benchmark.cli.suite_parser import make_parser, request_of
from art_sensreg.benchmark.results.writing import write_text
from art_sensreg.benchmark.studies.choose_settings import GRIDS, RULE, try_candidates
from art_sensreg.utils.checks import did_you_mean
from art_sensreg.utils.files import usable_folder
from art_sensreg.utils.text import fenced


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = OneLineParser(prog="choose_settings.py", description=__doc__, formatter_class=form, allow_abbrev=False)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--of", default="sr+jr,jr")
    given, rest = parser.parse_known_args()
    names = given.of.split(",")
    unknown = [name for name in names if name not in GRIDS]
    if unknown:
        parser.error(
            f"`--of` names {', '.join(unknown)}; expected some of {', '.join(GRIDS)}{did_you_mean(unknown[0], GRIDS)}"
        )
    out = given.out or Path("results") / f"{Path(given.dataset).stem}-validation"
    try:
        request = replace(request_of(make_parser().parse_args(rest)), dataset=given.dataset, verbose=False)
        usable_folder("--out", out)
    except (argparse.ArgumentTypeError, OSError) as error:
        parser.error(str(error))
    sections = []
    for name in names:
        table, settings = try_candidates(request, name, out)
        words = ", ".join(f"`{option}` {value}" for option, value in settings.items())
        sections.append(f"## {name}\n\n{table.as_markdown()}\n\nChosen: {words}.")
    command = shlex.join(["python", "benchmarks/choose_settings.py", *sys.argv[1:]])
    text = "\n\n".join(["# Candidates on held-out training images", fenced(command), RULE, *sections]) + "\n"
    write_text(out / "validation.md", text)
    say(text)


if __name__ == "__main__":
    sys.exit(run_program(main))
