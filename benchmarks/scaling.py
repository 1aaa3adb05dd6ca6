"""
Time the same training on 1, 2, ... processes of this machine: `scaling.py [--processes 1,2] [--batch-size 128,512]`.

SR+JR on `cnn-small` with 28x28 images, one thread (or one GPU) for each process, the same global batch. Writes
scaling.md, scaling.json and scaling.png into --out.
"""

import argparse
import json
import os
import shlex
import sys
from pathlib import Path

from art_sensreg.benchmark.cli.arguments import OneLineParser, whole_number
from art_sensreg.benchmark.cli.console import run_program, say
from art_sensreg.benchmark.studies.scaling import (
    ScalingStudy,
    run_scaling,
    scaling_table,
    train_and_time,
    write_scaling,
)
from art_sensreg.utils.files import usable_folder


def whole_numbers(text: str) -> tuple[int, ...]:
    """Whole numbers separated by commas, for argparse."""
    return tuple(whole_number(part) for part in text.split(","))


def main() -> int:
    parser = OneLineParser(prog="scaling.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--processes", type=whole_numbers, default=(1, 2))
    parser.add_argument("--batch-size", type=whole_numbers, default=(128, 512))
    parser.add_argument("--steps", type=whole_number, default=40)
    parser.add_argument("--repeats", type=whole_number, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("results/scaling"))
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        seconds = train_and_time(given.batch_size[0], given.steps, given.device)
        if int(os.environ.get("RANK", "0")) == 0:
            print(json.dumps(seconds))
        return 0
    try:
        usable_folder("--out", given.out)
    except OSError as error:
        parser.error(str(error))
    study = ScalingStudy(
        processes=given.processes,
        batch_sizes=given.batch_size,
        steps=given.steps,
        repeats=given.repeats,
        device=given.device,
    )
    found = run_scaling(study, Path(__file__))
    write_scaling(study, found, given.out, shlex.join(["python", "benchmarks/scaling.py", *sys.argv[1:]]))
    say(scaling_table(found).as_text())
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
