"""The command line of the experiments, for the programs in `benchmarks/`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from art_sensreg.benchmark.cli.arguments import OneLineParser, positive_number, whole_number
from art_sensreg.benchmark.cli.console import say
from art_sensreg.benchmark.studies.experiments.named import EXPERIMENTS
from art_sensreg.benchmark.studies.experiments.run import Choice, run_experiment
from art_sensreg.benchmark.studies.experiments.units import KINDS


def run_command(arguments: Sequence[str] | None, program: str, description: str, prefix: str = "") -> int:
    """
    Run the experiment that is named on a command line: the exit code is 0, or 1 if a unit failed; wrong arguments exit
    with 2.

    :param arguments: The words; None: those of the process.
    :param program: Name of the program.
    :param description: What it does.
    :param prefix: How the names of its experiments begin; this is not repeated on the command line.
    """
    names = {name.removeprefix(prefix): one for name, one in EXPERIMENTS.items() if name.startswith(prefix)}
    parser = _parser(program, description, tuple(names))
    given = parser.parse_args(arguments)
    experiment = names[given.name]
    if given.tiny:
        if given.out is None:
            parser.error("`--tiny` needs `--out`: its figures are nobody's result")
        experiment = replace(experiment.tiny(), folder=None)
    choice = Choice(
        rows=given.only, seeds=given.seeds, kinds=given.kinds, sizes=given.sizes, points=given.points,
        minutes=given.minutes,
    )  # fmt: skip
    try:
        done = run_experiment(experiment, choice, given.out, given.data_dir, say)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    say(*(f"failed: {line}" for line in done.failures))
    say("done" if done.complete else "not finished: the same command goes on", *map(str, done.pages))
    return int(bool(done.failures))


def _parser(program: str, description: str, names: tuple[str, ...]) -> OneLineParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = OneLineParser(prog=program, description=description, formatter_class=form, allow_abbrev=False)
    parser.add_argument("name", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--minutes", type=positive_number, metavar="N", help="stop at the end of a unit of work")
    parser.add_argument("--only", type=_names, metavar="ROW,ROW...", help="only these rows")
    parser.add_argument("--seeds", type=_seeds, metavar="N,N...", help="only these training seeds")
    parser.add_argument("--kinds", type=_names, metavar="KIND,KIND...", help=f"only {', '.join(KINDS)}")
    sizes = "only attacks of these sizes: linf:0.3,l2:1.5"
    parser.add_argument("--sizes", type=_sizes, metavar="NORM:EPS,NORM:EPS...", help=sizes)
    points = "let AutoAttack attack at most so many images of a row and size"
    parser.add_argument("--points", type=whole_number, metavar="N", help=points)
    parser.add_argument("--data-dir", metavar="DIR", help="as for the suite")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: a folder of that name in docs/results")
    parser.add_argument("--tiny", action="store_true", help="try it on few images, with weak attacks; needs --out")
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def _sizes(text: str) -> tuple[tuple[str, float], ...]:
    found = []
    for word in _names(text):
        norm, colon, eps = word.partition(":")
        if not colon:
            raise argparse.ArgumentTypeError(f"{word[:60]!r} is not a norm and a size such as linf:0.3 or linf:8/255")
        found.append((norm, positive_number(eps)))
    return tuple(found)


def _seeds(text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.isascii() and word.isdecimal() and len(word) < 5 for word in words):
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is not a list of seeds such as 0,1")
    return tuple(map(int, words))
