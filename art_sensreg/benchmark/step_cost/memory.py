"""Peak memory of an epoch: the allocator's on a GPU, the process's own on the CPU."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import torch

from art_sensreg.benchmark.results.schema import list_of, record
from art_sensreg.benchmark.step_cost.loops import MODELS, Run, make_bench
from art_sensreg.benchmark.step_cost.records import MemoryRise
from art_sensreg.benchmark.step_cost.variants import VARIANTS

STEPS = (2, 8)  # two sizes of the data: the peak should grow with the batch, not with these
MEGABYTE = 1e6


def cuda_peak(run: Run, device: torch.device) -> float:
    """Most memory that a run allocates on a GPU beyond what was allocated before."""
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / MEGABYTE


def memory_in_child(variant: str, model: str, batch_size: int, precision: str, threads: int) -> tuple[MemoryRise, ...]:
    """Measure in a separate process, whose memory no other variant has enlarged."""
    options = {
        "--memory-of": variant,
        "--model": model,
        "--batch-size": batch_size,
        "--precision": precision,
        "--threads": threads,
    }
    command = [
        sys.executable,
        "-m",
        "art_sensreg",
        "step-cost",
        *(str(part) for pair in options.items() for part in pair),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.splitlines() or [f"exit code {done.returncode}"])[-1])
    rises: tuple[MemoryRise, ...] = list_of(record(MemoryRise))(json.loads(done.stdout.splitlines()[-1]), "")
    return rises


def memory_rise(variant: str, model: str, batch_size: int, precision: str) -> tuple[MemoryRise, ...]:
    """
    How far the peak of this process's memory rises in an epoch of few steps, and in one of more.

    Both are measured from just before the first epoch, when the data of the longer one is there already.
    Call it in a fresh process: memory that was used and freed before would hide the rise.
    """
    prepare = VARIANTS[variant].prepare
    # Two examples load the code of everything that is called, and next to no data.
    prepare(make_bench(MODELS[model], 2, 2, "cpu", precision))()
    bench = make_bench(MODELS[model], batch_size, STEPS[-1], "cpu", precision)
    runs = [prepare(bench.limited(steps)) for steps in STEPS]
    before = _status("VmRSS")
    _reset_peak()
    rises = []
    for steps, run in zip(STEPS, runs, strict=True):
        run()
        rises.append(MemoryRise(steps=steps, megabytes=max(_status("VmHWM") - before, 0) / MEGABYTE))
    return tuple(rises)


def _status(field: str) -> int:
    """Bytes of `VmRSS` (now) or `VmHWM` (peak); where the system does not tell, the peak as `getrusage` has it."""
    status = Path("/proc/self/status")
    found = re.search(rf"^{field}:\s*(\d+) kB", status.read_text() if status.exists() else "", re.MULTILINE)
    return 1024 * (int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _reset_peak() -> None:
    """Linux forgets the peak so far; elsewhere an earlier one, such as that of the imports, may hide a small rise."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return
