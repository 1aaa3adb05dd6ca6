"""All stages of `benchmarks/gpu.py`: each in a separate process, within its time; a failure stops no other."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from art_sensreg.benchmark.gpu.records import Row, StageRecord
from art_sensreg.benchmark.gpu.stages import STAGES
from art_sensreg.benchmark.step_cost.timing import without_folders

MARK = "gpu-stage-result: "
"""What a stage prints before its records, which are JSON."""

TESTS_SECONDS = 150


def run_all(
    stage_command: Sequence[str],
    tests_command: Sequence[str],
    seconds: float,
    progress: Callable[[str], None] = print,
    folder: Path | None = None,
    patience: float = 1.0,
) -> tuple[StageRecord, ...]:
    """
    Run the tests marked `gpu`, then every stage, in so many seconds together: what no longer fits is left out. The name
    of a stage is appended to its command; `patience` multiplies the time that each may take.
    """
    deadline = time.monotonic() + seconds
    stages = []
    jobs = [("tests", list(tests_command), TESTS_SECONDS)]
    jobs += [(name, [*stage_command, name], limit) for name, (_, limit) in STAGES.items()]
    for name, command, limit in jobs:
        progress(name)
        left = deadline - time.monotonic()
        stages.append(_run(name, command, min(patience * limit, left), folder) if left > 5 else _left_out(name))
    return tuple(stages)


def _left_out(name: str) -> StageRecord:
    return StageRecord(stage=name, status="left out", reason="no time was left")


def _run(name: str, command: list[str], limit: float, folder: Path | None) -> StageRecord:
    start = time.monotonic()
    status, reason = "ok", ""
    records: list[Row] = []
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False, cwd=folder)
    except subprocess.TimeoutExpired:
        status, reason = "timeout", f"not done after {limit:.0f} seconds"
    except OSError as error:
        status, reason = "failed", without_folders(str(error))
    else:
        lines = done.stdout.splitlines()
        if name == "tests":
            records = _test_results(done.stdout)
            failed = done.returncode != 0
        else:
            found = [line for line in lines if line.startswith(MARK)]
            records = json.loads(found[-1].removeprefix(MARK)) if found else []
            failed = done.returncode != 0 or not found
        if failed:
            said = [line for line in [*lines, *done.stderr.splitlines()] if line.strip()]
            status, reason = "failed", without_folders(said[-1] if said else f"exit code {done.returncode}")
    seconds = time.monotonic() - start
    return StageRecord(stage=name, status=status, reason=reason, seconds=seconds, records=tuple(records))


def _test_results(output: str) -> list[Row]:
    """Every test of pytest's output with `-rA -q`, and its outcome."""
    found = re.findall(r"^(PASSED|FAILED|ERROR|SKIPPED) (\S+)", output, re.MULTILINE)
    return [{"test": test, "outcome": outcome.lower()} for outcome, test in found]
