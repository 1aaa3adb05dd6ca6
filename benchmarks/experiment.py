"""
Run one of the named experiments in pieces: `experiment.py NAME [--minutes N] [--only ROW,ROW...] [--seeds 0,1]`.

Everything is kept in docs/results/NAME, in small files that can be committed as they grow: what is there is not done
again, on whatever machine the same command goes on. Several processes may work in the same folder at the same time.
"""

import sys

from art_sensreg.benchmark.cli.console import run_program
from art_sensreg.benchmark.studies.experiments.command import run_command


def main(arguments: list[str] | None = None) -> int:
    return run_command(arguments, "experiment.py", __doc__ or "")


if __name__ == "__main__":
    sys.exit(run_program(main))
