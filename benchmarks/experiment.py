"""
Run one of the named experiments in pieces: `experiment.py NAME [--minutes N] [--only ROW,ROW...] [--seeds 0,1]`.

Everything is kept in docs/results/NAME, in small files that can be committed as they grow: what is there is not done
again, on whatever machine the same command goes on. Several processes may work in the same folder at the same time.
With --emulated the device `cuda` is emulated in the CPU's memory (tests/device), to try what needs a GPU without one.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: list[str] | None = None) -> int:
    # Not before the device is emulated.
    from art_sensreg.benchmark.studies.experiments.command import run_command

    return run_command(arguments, "experiment.py", __doc__ or "")


if __name__ == "__main__":
    if "--emulated" in sys.argv:
        sys.argv.remove("--emulated")
        sys.path.insert(0, str(ROOT))
        from tests.device.translation import emulate_cuda

        emulate_cuda()
    from art_sensreg.benchmark.cli.console import run_program

    sys.exit(run_program(main))
