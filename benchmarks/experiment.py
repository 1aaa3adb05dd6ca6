"""
Run one of the named experiments in pieces: `experiment.py NAME [--minutes N] [--only ROW,ROW...] [--seeds 0,1]`.

Everything is kept in docs/results/NAME, in small files that can be committed as they grow: what is there is not done
again, on whatever machine the same command goes on. Two processes may work in the same folder at the same time.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from art_sensreg.benchmark.cli.arguments import OneLineParser, positive_number
from art_sensreg.benchmark.cli.console import run_program, say
from art_sensreg.benchmark.studies.experiments import EXPERIMENTS, Choice, run_experiment
from art_sensreg.benchmark.studies.experiments.run import chosen_seeds
from art_sensreg.benchmark.studies.experiments.units import KINDS


def names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def make_parser() -> OneLineParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = OneLineParser(prog="experiment.py", description=__doc__, formatter_class=form, allow_abbrev=False)
    parser.add_argument("name", choices=tuple(EXPERIMENTS), metavar="NAME", help=", ".join(EXPERIMENTS))
    parser.add_argument("--minutes", type=positive_number, metavar="N", help="stop at the end of a unit of work")
    parser.add_argument("--only", type=names, metavar="ROW,ROW...", help="only these rows")
    parser.add_argument("--seeds", type=chosen_seeds, metavar="N,N...", help="only these training seeds")
    parser.add_argument("--kinds", type=names, metavar="KIND,KIND...", help=f"only {', '.join(KINDS)}")
    parser.add_argument("--data-dir", metavar="DIR", help="as for the suite")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: docs/results/NAME")
    parser.add_argument("--tiny", action="store_true", help="try it on few images, with weak attacks; needs --out")
    return parser


def main() -> int:
    """Run; the exit code is 0, or 1 if a unit failed."""
    parser = make_parser()
    given = parser.parse_args()
    experiment = EXPERIMENTS[given.name]
    if given.tiny:
        if given.out is None:
            parser.error("`--tiny` needs `--out`: its figures are nobody's result")
        experiment = replace(experiment.tiny(), folder=None)
    choice = Choice(rows=given.only, seeds=given.seeds, kinds=given.kinds, minutes=given.minutes)
    try:
        done = run_experiment(experiment, choice, given.out, given.data_dir, say)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    say(*(f"failed: {line}" for line in done.failures))
    say("done" if done.complete else "not finished: the same command goes on", *map(str, done.pages))
    return int(bool(done.failures))


if __name__ == "__main__":
    sys.exit(run_program(main))
