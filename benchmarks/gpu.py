"""
Everything that can only be measured on a GPU, in at most nine minutes. See --help.

Writes `gpu.json` and `gpu.md` to --out: the tests marked `gpu`, waits of the host, agreement with the CPU, resumed
runs, lower precision, step cost and memory. A stage that fails or takes too long is recorded, and the rest runs.
"""

import argparse
import json
import math
import shlex
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]


class OneLineParser(argparse.ArgumentParser):
    """As that of `art_sensreg.benchmark`, which is not imported before the device is emulated."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def positive(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")


def make_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="gpu.py", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs" / "results", metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument(
        "--seconds", type=positive, metavar="N", help="time for all stages (default 530; emulated 1600)"
    )
    parser.add_argument(
        "--emulated", action="store_true", help="run on the emulated device of tests/device, with small problems"
    )
    parser.add_argument("--stage", help=argparse.SUPPRESS)  # what the run starts in processes of their own
    return parser


def main() -> int:
    """Run; the exit code is 0, 1 if a stage failed, 2 where there is no GPU."""
    parser = make_parser()
    given = parser.parse_args()
    if given.emulated:
        sys.path.insert(0, str(ROOT))
        from tests.device.translation import emulate_cuda

        emulate_cuda()
    from art_sensreg.benchmark.gpu import MARK, REDUCED, STAGES, GpuResults, Size, run_all, run_stage, write_gpu
    from art_sensreg.utils.files import usable_folder

    if given.stage and given.stage not in STAGES:
        parser.error(f"`--stage` is {given.stage!r}; expected one of {', '.join(STAGES)}")
    if given.stage:
        print(MARK + json.dumps(run_stage(given.stage, REDUCED if given.emulated else Size())))
        return 0
    if not has_gpu(given.emulated):
        parser.error("torch sees no GPU here; expected one, or --emulated")
    try:  # before minutes are spent
        usable_folder("--out", given.out)
    except OSError as error:
        parser.error(str(error))
    flags = ["--emulated"] if given.emulated else []
    plugin = ["-p", "tests.device.plugin", "--assert=plain"] if given.emulated else []
    tests = [sys.executable, "-m", "pytest", "-q", "-rA", "-m", "gpu", "-p", "no:cacheprovider", *plugin, "tests"]
    start = time.monotonic()
    stage = [sys.executable, str(Path(__file__).resolve()), *flags, "--stage"]
    seconds = given.seconds or (1600.0 if given.emulated else 530.0)
    stages = run_all(stage, tests, seconds, folder=ROOT, patience=3.0 if given.emulated else 1.0)
    results = GpuResults(
        emulated=given.emulated,
        command=shlex.join(["python", "benchmarks/gpu.py", *flags]),
        environment=machine(given.emulated),
        seconds=time.monotonic() - start,
        stages=stages,
    )
    print("Wrote:", *write_gpu(results, given.out), sep="\n  ")
    for stage in stages:
        print(f"{stage.stage:10} {stage.status:9} {stage.seconds:6.1f} s  {stage.reason}")
    return int(any(stage.status != "ok" for stage in stages))


def has_gpu(emulated: bool) -> bool:
    import torch

    return emulated or torch.cuda.is_available()


def machine(emulated: bool) -> dict[str, str]:
    import torch

    from art_sensreg import __version__

    device = "emulated on the CPU's memory" if emulated else torch.cuda.get_device_name()
    return {"device": device, "torch": torch.__version__, "python": sys.version.split()[0], "art_sensreg": __version__}


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
