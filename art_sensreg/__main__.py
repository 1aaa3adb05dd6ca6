"""`art-sensreg` and `python -m art_sensreg`: the command of the package."""

from __future__ import annotations

import sys

from art_sensreg.benchmark.cli.command import main
from art_sensreg.benchmark.cli.console import run_program


def run() -> int:
    """
    Run the command with the arguments of the process.

    :return: The exit code: 0 done, 1 something failed, 130 Ctrl-C; wrong arguments exit with 2.
    """
    return run_program(main)


if __name__ == "__main__":
    sys.exit(run())
