"""The small problems that the stages train on, and how the device is looked at."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from art_sensreg.adversaries import Adversary
from art_sensreg.benchmark.step_cost.loops import CLASSES, TimedModel
from art_sensreg.classifiers import SensRegClassifier
from art_sensreg.models import build_model
from art_sensreg.penalty_lists import Penalty
from art_sensreg.trainers import SensRegTrainer
from art_sensreg.training.config import TrainingConfig

MODELS = {
    model.name: model
    for model in (
        TimedModel("cnn-small", "cnn-small", (1, 28, 28)),
        TimedModel("cnn-small-bn", "cnn-small", (1, 28, 28), norm_layer="batch"),
        TimedModel("preact-resnet18", "preact-resnet18", (3, 32, 32), norm_layer="batch"),
    )
}


def separable_images(n: int, shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images of ten classes that a network learns within a few steps: a random picture a class, under noise."""
    pictures = np.random.default_rng(0).random((CLASSES, *shape))
    generator = np.random.default_rng(seed + 1)
    labels = np.arange(n) % CLASSES
    images = 0.7 * pictures[labels] + 0.3 * generator.random((n, *shape))
    return images.astype(np.float32), labels


def make_classifier(name: str, device: str) -> SensRegClassifier:
    """A classifier with the same initial weights on every device."""
    chosen = MODELS[name]
    torch.manual_seed(0)
    model = build_model(chosen.architecture, chosen.input_shape, CLASSES, norm_layer=chosen.norm_layer)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss = nn.CrossEntropyLoss()
    return SensRegClassifier(
        model, loss, chosen.input_shape, CLASSES, optimizer,
        clip_values=(0.0, 1.0), device_type=device,
    )  # fmt: skip


def train(
    classifier: SensRegClassifier,
    data: tuple[np.ndarray, np.ndarray],
    penalties: Sequence[Penalty] = (),
    adversary: Adversary | None = None,
    fit: dict[str, Any] | None = None,
    **config: Any,
) -> list[dict[str, float]]:
    """Train a classifier, with further settings and arguments of `fit`, and return the history."""
    settings = TrainingConfig(seed=0, on_catastrophic_overfitting="ignore", **config)
    trainer = SensRegTrainer(classifier, penalties, settings, adversary)
    trainer.fit(*data, batch_size=settings.batch_size, nb_epochs=settings.nb_epochs, verbose=False, **(fit or {}))
    return trainer.history


@contextmanager
def waits_counted() -> Iterator[list[str]]:
    """Yield a list of the places where the host waits for the GPU, as torch's debug mode reports them."""
    places: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        former = warnings.showwarning

        def note(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
            if "synchronizing CUDA operation" in str(message):
                places.append(f"{filename.rsplit('/art_sensreg/')[-1]}:{lineno}")
            else:
                former(message, category, filename, lineno, file, line)

        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield places
        finally:
            torch.cuda.set_sync_debug_mode("default")


class StepsCounted:
    """Counts the waits of each step, from the end of one to that of the next, but for the first of an epoch."""

    def __init__(self) -> None:
        self.steps: list[list[str]] = []
        self._counting = waits_counted()

    def on_start(self, state: Any) -> None:
        self._places = self._counting.__enter__()

    def on_step(self, state: Any) -> None:
        if state.step > 1:
            self.steps.append(list(self._places))
        self._places.clear()

    def on_end(self, state: Any) -> None:
        self._counting.__exit__(None, None, None)
