"""
What three changed lines of ART's get_started_pytorch.py buy: writes docs/results/get-started.md and get-started.json.

The network, the optimizer, the number of epochs and the attack (FGSM at L-inf 0.2, all test images) are that script's;
PGD with 40 steps from 2 starts tells whether what FGSM says holds. It needs mnist.npz in --data-dir.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescentPyTorch
from art.estimators.classification import PyTorchClassifier
from torch import nn
from torch.nn import functional

from art_sensreg import SensRegClassifier, presets
from art_sensreg.benchmark.cli.arguments import OneLineParser, whole_number
from art_sensreg.benchmark.cli.console import run_program, say
from art_sensreg.benchmark.results.store import environment
from art_sensreg.benchmark.results.writing import json_text, write_text
from art_sensreg.datasets import Dataset, load_dataset
from art_sensreg.utils.tables import Table

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
KINDS = {
    "as ART has it": lambda arguments: PyTorchClassifier(**arguments),
    "with the three lines: SR+JR": lambda arguments: SensRegClassifier(**arguments, penalties=presets.sr_jr("mnist")),
}
PGD_POINTS = 1000


class Net(nn.Module):
    """Two convolutions and two dense layers, with functional activations and pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 5), nn.Conv2d(4, 10, 5)
        self.hidden, self.head = nn.Linear(160, 100), nn.Linear(100, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (self.first, self.second):
            x = functional.max_pool2d(functional.relu(layer(x)), 2, 2)
        return self.head(functional.relu(self.hidden(x.flatten(1))))


def measure(kind: str, data: Dataset, seed: int) -> dict[str, object]:
    """Train as the script does, and attack."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    model = Net()
    classifier = KINDS[kind](
        {
            "model": model,
            "clip_values": (0.0, 1.0),
            "loss": nn.CrossEntropyLoss(),
            "optimizer": torch.optim.Adam(model.parameters(), lr=0.01),
            "input_shape": (1, 28, 28),
            "nb_classes": 10,
        }
    )
    start = time.process_time()
    classifier.fit(data.x_train, np.eye(10, dtype=np.float32)[data.y_train], batch_size=64, nb_epochs=3)
    seconds = time.process_time() - start

    def percent(attack: object | None, points: int) -> float:
        x, y = data.x_test[:points], data.y_test[:points]
        images = x if attack is None else attack.generate(x)  # type: ignore[attr-defined]
        return 100 * float((classifier.predict(images).argmax(axis=1) == y).mean())

    def pgd(eps: float) -> ProjectedGradientDescentPyTorch:
        steps = {"eps_step": eps / 10, "max_iter": 40, "num_random_init": 2}
        return ProjectedGradientDescentPyTorch(classifier, eps=eps, batch_size=500, verbose=False, **steps)

    return {
        "classifier": kind,
        "seed": seed,
        "clean": percent(None, len(data.x_test)),
        "fgsm_0.2": percent(FastGradientMethod(classifier, eps=0.2), len(data.x_test)),
        "pgd_0.1": percent(pgd(0.1), PGD_POINTS),
        "pgd_0.2": percent(pgd(0.2), PGD_POINTS),
        "seconds": seconds,
    }


def page(runs: list[dict[str, object]], machine: dict[str, object], seeds: int) -> str:
    """The results as Markdown: means over the seeds."""
    columns = ["clean", "fgsm_0.2", "pgd_0.1", "pgd_0.2", "seconds"]
    rows = [
        [kind, *(f"{np.mean([run[name] for run in runs if run['classifier'] == kind]):.1f}" for name in columns)]
        for kind in KINDS
    ]
    heads = ["get_started_pytorch.py", "clean %", "FGSM 0.2: %", "PGD 0.1: %", "PGD 0.2: %", "processor s"]
    table = Table(heads, rows).as_markdown()
    count = "one seed" if seeds == 1 else f"mean of {seeds} seeds"
    return (
        "# ART's first script, with three lines changed\n\n"
        f"```\npython benchmarks/get_started.py --seeds {seeds}\n```\n\n"
        f"{table}\n\nMNIST, 3 epochs, {count}; FGSM on all test images, PGD (40 steps, 2 starts) on the "
        f"first {PGD_POINTS}. torch {machine['torch']}, ART {machine['art']}, threads: {machine['threads']}.\n"
    )


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = OneLineParser(prog="get_started.py", description=__doc__, formatter_class=form, allow_abbrev=False)
    parser.add_argument("--data-dir", default=None, metavar="DIR", help="or set ART_SENSREG_DATA")
    parser.add_argument("--seeds", type=whole_number, default=3, metavar="N", help="default 3")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="default: docs/results")
    given = parser.parse_args()
    try:
        data = load_dataset("mnist", given.data_dir or os.environ.get("ART_SENSREG_DATA"))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    runs, machine = [], environment("cpu")
    for seed in range(given.seeds):
        runs += [measure(kind, data, seed) for kind in KINDS]
        text = page(runs, machine, seed + 1)
        write_text(given.out / "get-started.json", json_text({"runs": runs, "environment": machine}))
        write_text(given.out / "get-started.md", text)
    say(text)


if __name__ == "__main__":
    sys.exit(run_program(main))
