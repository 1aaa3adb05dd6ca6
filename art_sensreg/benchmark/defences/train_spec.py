"""One training spec of the suite: what every defence gets, so that the rows of the table can be compared."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from art_sensreg.benchmark.config.threat_models import NORMS
from art_sensreg.classifiers import SensRegClassifier
from art_sensreg.datasets import Dataset
from art_sensreg.models import build_model


class NotApplicable(Exception):
    """A defence that cannot run here, with the reason: a row of the table and no failure."""


@dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """
    Data, architecture and training settings of one cell.

    :param dataset: The data.
    :param model: Name of the model.
    :param activation: Name of the activation.
    :param norm_layer: `none` or `batch`.
    :param seed: Seed of the initial weights and of training.
    :param epochs: Passes over the training data.
    :param batch_size: Rows of a step.
    :param learning_rate: Peak of the one-cycle schedule.
    :param norm: `linf`, `l2` or `l1`: that of adversarial training.
    :param eps: Size that adversarial training trains at.
    :param device: `cpu` or `cuda`.
    :param checkpoint_dir: Where a training run may leave what it needs to be resumed, or None.
    """

    dataset: Dataset
    model: str
    activation: str
    norm_layer: str
    seed: int
    epochs: int
    batch_size: int
    learning_rate: float
    norm: str
    eps: float
    device: str
    checkpoint_dir: Path | None = None

    @property
    def art_norm(self) -> float:
        """The norm as ART takes it."""
        return NORMS[self.norm]

    @property
    def steps(self) -> int:
        """Number of training steps."""
        return self.epochs * -(-len(self.dataset.x_train) // self.batch_size)

    def require_linf(self, reason: str) -> None:
        """
        Refuse the norms other than L-inf.

        :param reason: Why.
        :raises NotApplicable: If the norm is not `linf`.
        """
        self.require_norm(("linf",), reason)

    def require_norm(self, norms: Sequence[str], reason: str) -> None:
        """
        Refuse other norms.

        :param norms: Those that will do.
        :param reason: Why.
        :raises NotApplicable: If the norm is none of them.
        """
        if self.norm not in norms:
            raise NotApplicable(f"{reason}; this run is in {self.norm}")

    def new_model(self) -> nn.Module:
        """A model with the initial weights of this seed."""
        torch.manual_seed(self.seed)
        dataset = self.dataset
        return build_model(self.model, dataset.input_shape, dataset.nb_classes, self.activation, self.norm_layer)

    def art_classifier(self, learning_rate: float | None = None, sgd: float | None = None) -> PyTorchClassifier:
        """
        A plain ART classifier with a new model, as ART's trainers take it.

        :param learning_rate: Learning rate of Adam; the spec's if None.
        :param sgd: Learning rate of SGD, to use that instead.
        :return: The classifier.
        """
        model = self.new_model()
        parameters = model.parameters()
        optimizer: torch.optim.Optimizer
        if sgd is not None:
            optimizer = torch.optim.SGD(parameters, lr=sgd)
        else:
            optimizer = torch.optim.Adam(parameters, lr=learning_rate or self.learning_rate)
        return self._wrap(PyTorchClassifier, model, optimizer)

    def classifier(
        self, model: nn.Module | None = None, kind: type[SensRegClassifier] = SensRegClassifier, **kwargs: Any
    ) -> SensRegClassifier:
        """
        The classifier that the suite trains ours on, and attacks everybody's models through.

        :param model: A trained model; a new one if None.
        :param kind: Its class.
        :param kwargs: Further arguments of the class, such as `preprocessing_defences`.
        :return: The classifier.
        """
        model = model or self.new_model()
        optimizer = torch.optim.Adam(model.parameters(), lr=self.learning_rate)
        wrapped = self._wrap(kind, model, optimizer, **kwargs)
        assert isinstance(wrapped, SensRegClassifier)
        return wrapped

    def _wrap(
        self, kind: type[PyTorchClassifier], model: nn.Module, optimizer: torch.optim.Optimizer, **kwargs: Any
    ) -> PyTorchClassifier:
        return kind(
            model=model,
            loss=nn.CrossEntropyLoss(),
            input_shape=self.dataset.input_shape,
            nb_classes=self.dataset.nb_classes,
            optimizer=optimizer,
            clip_values=(0.0, 1.0),
            device_type="gpu" if self.device == "cuda" else "cpu",
            **kwargs,
        )

    def one_cycle(self, classifier: PyTorchClassifier) -> OneCycleLR:
        """
        One-cycle schedule that is stepped after every batch.

        :param classifier: Classifier whose optimizer it drives.
        :return: The schedule.
        """
        return OneCycleLR(classifier.optimizer, self.learning_rate, total_steps=self.steps + 1)

    def plain_step_seconds(self, steps: int = 30, patience: float = 3.0) -> float:
        """
        Time a lean loop of plain cross-entropy steps, the unit of `step_cost`.

        :param steps: Number of steps.
        :param patience: Seconds after which a large model's loop ends, with three steps at least.
        :return: Median seconds of a step.
        """
        device = torch.device(self.device)
        model = self.new_model().to(device).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=self.learning_rate)
        x = torch.from_numpy(self.dataset.x_train[: self.batch_size * 8]).to(device)
        y = torch.from_numpy(self.dataset.y_train[: self.batch_size * 8]).to(device)
        seconds: list[float] = []
        while len(seconds) < 3 or (len(seconds) < steps and sum(seconds) < patience):
            start = time.perf_counter()
            rows = torch.randint(len(x), (min(self.batch_size, len(x)),), device=device)
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()  # waits for a GPU
            seconds.append(time.perf_counter() - start)
        return sorted(seconds)[len(seconds) // 2]
