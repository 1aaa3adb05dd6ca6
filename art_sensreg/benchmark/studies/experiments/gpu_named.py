"""The experiments for a machine with a GPU: `make gpu-mnist` and `make gpu-cifar10`, in calls of minutes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from art_sensreg.benchmark.config.optimization import OptimizationSettings
from art_sensreg.benchmark.config.request import SuiteRequest
from art_sensreg.benchmark.studies.experiments.declaration import AIMED, Experiment, Row
from art_sensreg.benchmark.studies.experiments.goals import Goal

EPOCHS = (15, 30)
# Optimizer and schedule as Rice et al. 2020 (arXiv 2002.11569) and Wong et al. 2020 (arXiv 2001.03994) have them;
# averaged weights and smoothed labels for every row, since these alone are worth points.
_CIFAR10 = OptimizationSettings(
    optimizer="sgd", weight_decay=5e-4, label_smoothing=0.1, schedule="one-cycle", weight_average=0.999,
    augment="crop=4,flip", precision="bfloat16",
)  # fmt: skip
_COMPARED: dict[str, Mapping[str, Any]] = {
    "carried": {},  # first: it was the best of ours on a CPU
    "carried+sr+jr": {},
    "sr+jr": {},
    "n-fgsm": {},
    "fgsm-pgi": {},
    "at": {"max_iter": 10},
}
_HEADLINE = ("carried", "carried+sr+jr", "sr+jr")


def gpu_mnist(mnist: Experiment) -> Experiment:
    """The rows of the experiment on MNIST, all attacked on all test images."""
    return replace(
        mnist,
        name="gpu-mnist",
        title="MNIST on a GPU, all 10,000 test images",
        request=replace(mnist.request, device="cuda"),
        rows=tuple(replace(row, points=10000) for row in mnist.rows),
    )


def gpu_cifar10() -> Experiment:
    """CIFAR-10 with PreAct ResNet-18, each defence in few epochs and in twice as many."""
    rows = [
        Row(
            name=f"{name}_{epochs}-epochs", defence=name, options=options, settings={"epochs": epochs}, points=1000,
            headline=name in _HEADLINE,
        )
        for epochs in EPOCHS
        for name, options in _COMPARED.items()
    ]  # fmt: skip
    return Experiment(
        name="gpu-cifar10",
        title="CIFAR-10 on a GPU, PreAct ResNet-18",
        request=SuiteRequest(
            dataset="cifar10", eps=((2 / 255, 4 / 255, 8 / 255),), budget="full", model="preact-resnet18",
            norm_layer="batch", batch_size=128, learning_rate=0.2, optimization=_CIFAR10, device="cuda",
        ),
        rows=tuple(rows),
        aimed=AIMED,
        audited=True,
        # About what LIET reports, with clean accuracy that a user accepts.
        goals=tuple(
            Goal(row=f"{name}_{epochs}-epochs", robust={("linf", 8 / 255): 50}, clean=80)
            for epochs in EPOCHS
            for name in ("carried", "carried+sr+jr")
        ),
    )  # fmt: skip
