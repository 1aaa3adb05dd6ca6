"""Time the same training on several numbers of processes, with the same global batch (`benchmarks/scaling.py`)."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegClassifier, SensRegTrainer, TrainingConfig
from art_sensreg.benchmark.results.writing import json_text, save_picture, write_text
from art_sensreg.models import build_model
from art_sensreg.training import Callback
from art_sensreg.utils.tables import Table
from art_sensreg.utils.text import fenced

Seconds = dict[int, dict[int, list[float]]]
_SHAPE = (1, 28, 28)


@dataclass(frozen=True, kw_only=True)
class ScalingStudy:
    """
    What is timed: SR+JR on `cnn-small` with 28x28 images, one thread (or one GPU) for each process.

    :param processes: Numbers of processes.
    :param batch_sizes: Examples in a step, of all processes together.
    :param steps: Steps of a run.
    :param repeats: Runs of each kind.
    :param device: `cpu` or `cuda`.
    """

    processes: tuple[int, ...] = (1, 2)
    batch_sizes: tuple[int, ...] = (128, 512)
    steps: int = 40
    repeats: int = 3
    device: str = "cpu"


class _Clock(Callback):
    """Seconds of each step but the first five."""

    def __init__(self) -> None:
        self.last, self.seconds = 0.0, list[float]()

    def on_step(self, state: Any) -> None:
        now = time.perf_counter()
        if state.total_steps > 5:
            self.seconds.append(now - self.last)
        self.last = now


def train_and_time(batch_size: int, steps: int, device: str) -> list[float]:
    """Seconds of each step of a run, in one of its processes."""
    torch.set_num_threads(1)
    rng, n = np.random.default_rng(0), batch_size * steps
    x, y = rng.random((n, *_SHAPE), dtype=np.float32), rng.integers(0, 10, n)
    torch.manual_seed(0)
    model = build_model("cnn-small", _SHAPE, 10)
    classifier = SensRegClassifier(
        model,
        torch.nn.CrossEntropyLoss(),
        _SHAPE,
        10,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-3),
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    clock = _Clock()
    config = TrainingConfig(seed=0, batch_size=batch_size, nb_epochs=1, device=device, callbacks=[clock])
    SensRegTrainer(classifier, [SensitivityPenalty(), JacobianPenalty()], config).fit(x, y, verbose=False)
    return clock.seconds


def run_scaling(study: ScalingStudy, script: Path) -> Seconds:
    """
    Median seconds of a step of each run, by batch size and number of processes. The script, called with `--worker`,
    prints what `train_and_time` returns.
    """
    seconds: Seconds = {size: {count: [] for count in study.processes} for size in study.batch_sizes}
    for size, runs in seconds.items():
        for _ in range(study.repeats):  # in turn, so that a change of the machine's speed affects all alike
            for count in study.processes:
                runs[count].append(median(_in_processes(study, script, count, size)))
    return seconds


def _in_processes(study: ScalingStudy, script: Path, count: int, batch_size: int) -> list[float]:
    options = {"--batch-size": batch_size, "--steps": study.steps, "--device": study.device}
    worker = [str(script), "--worker", *(str(part) for pair in options.items() for part in pair)]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command = [sys.executable, *(launcher if count > 1 else []), *worker]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command[1:])} failed:\n{done.stderr}")
    seconds: list[float] = json.loads(done.stdout.strip().splitlines()[-1])
    return seconds


def scaling_table(seconds: Seconds) -> Table:
    """Milliseconds of a step, their range over the runs, and the speed-up over the first number of processes."""
    rows = []
    for size, runs in seconds.items():
        first = median(next(iter(runs.values())))
        for count, times in runs.items():
            spread = f"{min(times) * 1e3:.1f} to {max(times) * 1e3:.1f}"
            rows.append([str(size), str(count), f"{median(times) * 1e3:.1f}", spread, f"{first / median(times):.2f}"])
    return Table(["global batch", "processes", "ms a step", "of runs", "speed-up"], rows)


def write_scaling(study: ScalingStudy, seconds: Seconds, out: Path, command: str) -> None:
    """Write scaling.md, scaling.json and scaling.png."""
    medians = {size: {count: median(times) for count, times in runs.items()} for size, runs in seconds.items()}
    machine = f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores, {study.device}"
    table = scaling_table(seconds).as_markdown()
    write_text(out / "scaling.md", f"# Speed-up by processes\n\n{fenced(command)}\n\n{machine}\n\n{table}\n")
    write_text(out / "scaling.json", json_text({"machine": machine, "seconds": medians}))
    _plot(medians, out / "scaling.png")


def _plot(medians: dict[int, dict[int, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    for size, seconds in medians.items():
        counts = sorted(seconds)
        axes.plot(counts, [seconds[counts[0]] / seconds[n] for n in counts], marker="o", label=f"batch {size}")
    axes.plot(counts, [n / counts[0] for n in counts], "k:", label="ideal")
    axes.set(xlabel="processes", ylabel="speed-up", xticks=counts)
    axes.legend()
    save_picture(figure, path)
