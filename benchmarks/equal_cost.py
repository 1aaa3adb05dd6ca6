"""
What each defence reaches at the same training cost: `equal_cost.py DATASET [--minutes N] [--only ROW,ROW...]`.

The cost of a step of every defence is measured first, in whole epochs between plain steps. A budget of 10, 20, 40 or 80
epochs of plain training then buys each defence so many epochs of its own, with its schedule fitted to that length. As
`experiment.py equal-cost-DATASET`; docs/results/equal-cost-DATASET gets report.md, equal-cost.json and the pictures.
"""

import sys

from art_sensreg.benchmark.cli.console import run_program
from art_sensreg.benchmark.studies.experiments.command import run_command


def main(arguments: list[str] | None = None) -> int:
    return run_command(arguments, "equal_cost.py", __doc__ or "", prefix="equal-cost-")


if __name__ == "__main__":
    sys.exit(run_program(main))
