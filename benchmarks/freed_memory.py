"""
Write docs/results/freed-memory.md: what a training step costs with and without TrainingConfig.keep_freed_memory.

Each measurement is a separate process, since the allocator's settings persist; the two kinds alternate. Times are CPU
times (user and system), which other programs on the machine hardly affect.
"""

import resource
import shlex
import subprocess
import sys
from pathlib import Path
from statistics import median

import numpy as np
import torch

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegClassifier, SensRegTrainer, TrainingConfig
from art_sensreg.benchmark.cli.arguments import OneLineParser, whole_number
from art_sensreg.benchmark.cli.console import run_program, say
from art_sensreg.benchmark.results.store import environment
from art_sensreg.models import build_model
from art_sensreg.utils.files import atomic_write

TARGET = Path(__file__).resolve().parents[1] / "docs" / "results" / "freed-memory.md"
BATCH_SIZE, SHAPE = 128, (1, 28, 28)
PENALTIES = {"none": list, "SR and JR": lambda: [SensitivityPenalty(), JacobianPenalty()]}


def measure(penalties: str, kept: bool, steps: int) -> tuple[float, float]:
    """Milliseconds of the processor, and page faults, of a step of cnn-small, after an epoch that is not counted."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build_model("cnn-small", SHAPE, 10)
    x = np.random.default_rng(0).random((BATCH_SIZE * steps, *SHAPE), dtype=np.float32)
    y = np.arange(len(x)) % 10
    classifier = SensRegClassifier(
        model, torch.nn.CrossEntropyLoss(), SHAPE, 10,
        optimizer=torch.optim.Adam(model.parameters()), clip_values=(0.0, 1.0), device_type="cpu",
    )  # fmt: skip
    config = TrainingConfig(seed=0, batch_size=BATCH_SIZE, keep_freed_memory=kept)
    trainer = SensRegTrainer(classifier, PENALTIES[penalties](), config)
    trainer.fit(x, y, nb_epochs=1, verbose=False)
    before = resource.getrusage(resource.RUSAGE_SELF)
    trainer.fit(x, y, nb_epochs=2, verbose=False)
    after = resource.getrusage(resource.RUSAGE_SELF)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return 1e3 * seconds / (2 * steps), (after.ru_minflt - before.ru_minflt) / (2 * steps)


def main() -> None:
    parser = OneLineParser(prog="freed_memory.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--repeats", type=whole_number, default=5, metavar="N", help="pairs of processes (default 5)")
    parser.add_argument("--steps", type=whole_number, default=16, metavar="N", help="steps of an epoch (default 16)")
    parser.add_argument("--one", nargs=2, metavar=("PENALTIES", "KEPT"), help="measure in this process and print")
    options = parser.parse_args()
    if options.one:
        say(*measure(options.one[0], options.one[1] == "True", options.steps))
        return
    rows = []
    for penalties in PENALTIES:
        found: dict[bool, list[list[float]]] = {True: [], False: []}
        for _ in range(options.repeats):
            for kept, values in found.items():
                command = [sys.executable, __file__, "--steps", str(options.steps), "--one", penalties, str(kept)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                values.append([float(number) for number in done.stdout.split()])
        ratios = sorted(off[0] / on[0] for on, off in zip(found[True], found[False], strict=True))
        for kept, values in found.items():
            times, faults = zip(*values, strict=True)
            ratio = "1" if kept else f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            rows.append(f"| {penalties} | {kept} | {median(times):.1f} | {median(faults):.0f} | {ratio} |")
    machine = environment("cpu")
    text = (
        "# What keeping freed memory saves\n\n```\n"
        f"python {shlex.join(['benchmarks/freed_memory.py', *sys.argv[1:]])}\n```\n\n"
        f"torch {machine['torch']}, {machine['device']}, 1 thread, {options.repeats} pairs of processes.\n\n"
        f"cnn-small on random images 1x28x28, batches of {BATCH_SIZE}. *ms* and *page faults* are medians of a step;\n"
        "the time is the processor's, user and system. The last column has the median of the paired ratios and their\n"
        "range.\n\n"
        "| penalties | `keep_freed_memory` | ms | page faults | time / that with `True` |\n"
        "| --- | --- | ---: | ---: | ---: |\n" + "\n".join(rows) + "\n"
    )
    atomic_write(TARGET, text.encode())
    say(text)


if __name__ == "__main__":
    sys.exit(run_program(main))
