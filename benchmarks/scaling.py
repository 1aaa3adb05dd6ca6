"""
Time the same training on 1, 2, ... processes of this machine: `scaling.py [--processes 1,2] [--batch-size 128,512]`.

SR+JR on `cnn-small` with 28x28 images, one thread (or one GPU) a process, the same global batch. Writes scaling.md,
scaling.json and scaling.png into --out.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegClassifier, SensRegTrainer, TrainingConfig
from art_sensreg.benchmark.cli.arguments import OneLineParser, whole_number
from art_sensreg.benchmark.cli.console import run_program, say
from art_sensreg.benchmark.results.writing import write_text
from art_sensreg.models import build_model
from art_sensreg.training import Callback
from art_sensreg.utils.files import usable_folder
from art_sensreg.utils.tables import Table
from art_sensreg.utils.text import fenced


class Clock(Callback):
    """Seconds of each step, without the first ones."""

    def __init__(self, skipped: int = 5) -> None:
        self.skipped, self.last, self.seconds = skipped, 0.0, []

    def on_step(self, state) -> None:
        now = time.perf_counter()
        if state.total_steps > self.skipped:
            self.seconds.append(now - self.last)
        self.last = now


def work(batch_size: int, steps: int, device: str) -> None:
    """One process's part; the first prints the times."""
    torch.set_num_threads(1)
    rng, n = np.random.default_rng(0), batch_size * steps
    x, y = rng.random((n, 1, 28, 28), dtype=np.float32), rng.integers(0, 10, n)
    torch.manual_seed(0)
    model = build_model("cnn-small", (1, 28, 28), 10)
    classifier = SensRegClassifier(
        model,
        torch.nn.CrossEntropyLoss(),
        (1, 28, 28),
        10,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-3),
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    clock = Clock()
    config = TrainingConfig(seed=0, batch_size=batch_size, nb_epochs=1, device=device, callbacks=[clock])
    SensRegTrainer(classifier, [SensitivityPenalty(), JacobianPenalty()], config).fit(x, y, verbose=False)
    if int(os.environ.get("RANK", "0")) == 0:
        print(json.dumps(clock.seconds))


def measure(processes: int, batch_size: int, steps: int, device: str) -> list[float]:
    """Seconds of each step of a job of its own."""
    script = [__file__, "--worker", "--batch-size", str(batch_size), "--steps", str(steps), "--device", device]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *(launcher if processes > 1 else []), *script]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command[1:])} failed:\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def plot(results: dict[int, dict[int, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    for batch_size, seconds in results.items():
        counts = sorted(seconds)
        axes.plot(counts, [seconds[counts[0]] / seconds[n] for n in counts], marker="o", label=f"batch {batch_size}")
    axes.plot(counts, [n / counts[0] for n in counts], "k:", label="ideal")
    axes.set(xlabel="processes", ylabel="speed-up", xticks=counts)
    axes.legend()
    figure.savefig(path, dpi=120)


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
        work(given.batch_size[0], given.steps, given.device)
        return 0
    try:
        usable_folder("--out", given.out)
    except OSError as error:
        parser.error(str(error))
    counts = given.processes
    results: dict[int, dict[int, float]] = {}
    rows = []
    for batch_size in given.batch_size:
        runs: dict[int, list[float]] = {n: [] for n in counts}
        for _ in range(given.repeats):  # in turn, so that a change of the machine's speed hits all
            for n in counts:
                runs[n].append(statistics.median(measure(n, batch_size, given.steps, given.device)))
        results[batch_size] = {n: statistics.median(seconds) for n, seconds in runs.items()}
        for n in counts:
            median, spread = results[batch_size][n], f"{min(runs[n]) * 1e3:.1f} to {max(runs[n]) * 1e3:.1f}"
            rows.append(
                [
                    str(batch_size),
                    str(n),
                    f"{median * 1e3:.1f}",
                    spread,
                    f"{results[batch_size][counts[0]] / median:.2f}",
                ]
            )
    table = Table(["global batch", "processes", "ms a step", "of runs", "speed-up"], rows)
    command = shlex.join(["python", "benchmarks/scaling.py", *sys.argv[1:]])
    machine = f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores, {given.device}"
    page = f"# Speed-up by processes\n\n{fenced(command)}\n\n{machine}\n\n{table.as_markdown()}\n"
    write_text(given.out / "scaling.md", page)
    write_text(given.out / "scaling.json", json.dumps({"machine": machine, "seconds": results}, indent=1) + "\n")
    plot(results, given.out / "scaling.png")
    say(table.as_text())
    return 0


def whole_numbers(text: str) -> tuple[int, ...]:
    """Whole numbers separated by commas, for argparse."""
    return tuple(whole_number(part) for part in text.split(","))


if __name__ == "__main__":
    sys.exit(run_program(main))
