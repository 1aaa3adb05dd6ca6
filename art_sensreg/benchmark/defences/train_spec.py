"""The data and settings that all defences of a run are trained with, so that their results are comparable."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from art.defences.trainer import Trainer
from art.estimators.classification import PyTorchClassifier
from art.utils import to_categorical
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from art_sensreg.benchmark.config.networks import Network
from art_sensreg.benchmark.config.threat_models import NORMS
from art_sensreg.classifiers import SensRegClassifier
from art_sensreg.datasets import Dataset
from art_sensreg.trainers import SensRegTrainer
from art_sensreg.training.config import TrainingConfig


class NotApplicable(Exception):
    """A defence cannot run here, for the reason given: this is recorded in the table, and is not a failure."""


@dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """
    Data, architecture and training settings, the same for every defence of a run.

    :param dataset: The data.
    :param model: Name of the model.
    :param activation: Name of the activation.
    :param norm_layer: `none` or `batch`.
    :param weights: File with the weights that the model begins with; None: those that it is built with.
    :param seed: Seed of the initial weights and of training.
    :param epochs: Passes over the training data.
    :param batch_size: Examples in a training step.
    :param learning_rate: Peak of the one-cycle schedule.
    :param norm: `linf`, `l2` or `l1`, for adversarial training.
    :param eps: Size of the perturbations in adversarial training.
    :param device: `cpu` or `cuda`.
    :param checkpoint_dir: Where a training run may leave what it needs to be resumed, or None.
    """

    dataset: Dataset
    model: str
    activation: str = "relu"
    norm_layer: str = "none"
    weights: str | None = None
    seed: int = 0
    epochs: int
    batch_size: int
    learning_rate: float
    norm: str = "linf"
    eps: float
    device: str = "cpu"
    checkpoint_dir: Path | None = None

    @property
    def art_norm(self) -> float:
        """The norm as ART expects it."""
        return NORMS[self.norm]

    @property
    def art_device(self) -> str:
        """The device as ART calls it: `cpu` or `gpu`."""
        return "gpu" if self.device == "cuda" else "cpu"

    @property
    def steps(self) -> int:
        """Number of training steps."""
        return self.epochs * -(-len(self.dataset.x_train) // self.batch_size)

    @property
    def one_hot(self) -> np.ndarray:
        """The training labels as ART's trainers expect them, `(n, nb_classes)`."""
        labels: np.ndarray = to_categorical(self.dataset.y_train, self.dataset.nb_classes)
        return labels

    def new_model(self) -> nn.Module:
        """A model with the initial weights of this seed."""
        torch.manual_seed(self.seed)
        dataset = self.dataset
        network = Network(name=self.model, activation=self.activation, norm_layer=self.norm_layer, weights=self.weights)
        return network.build(dataset.input_shape, dataset.nb_classes)

    def config(self, **settings: Any) -> TrainingConfig:
        """The settings for `SensRegTrainer`, plus further ones."""
        return TrainingConfig(batch_size=self.batch_size, nb_epochs=self.epochs, seed=self.seed, **settings)

    def art_classifier(self, learning_rate: float | None = None, sgd: float | None = None) -> PyTorchClassifier:
        """
        A plain ART classifier with a new model, as ART's trainers take it; with Adam at a learning rate (None: the peak
        of the schedule), or with SGD at another.
        """
        model = self.new_model()
        optimizer: torch.optim.Optimizer
        if sgd is not None:
            optimizer = torch.optim.SGD(model.parameters(), lr=sgd)
        else:
            optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate or self.learning_rate)
        return self.estimator(PyTorchClassifier, model, optimizer)

    def classifier(
        self, model: nn.Module | None = None, kind: type[SensRegClassifier] = SensRegClassifier, **kwargs: Any
    ) -> SensRegClassifier:
        """
        The classifier that this package's defences are trained as, and through which every model is attacked. Without a
        model it gets a new one; further arguments are those of its class.
        """
        model = model or self.new_model()
        optimizer = torch.optim.Adam(model.parameters(), lr=self.learning_rate)
        made = self.estimator(kind, model, optimizer, **{"penalties": [], **kwargs})
        assert isinstance(made, SensRegClassifier)
        return made

    def estimator(
        self, kind: type[PyTorchClassifier], model: nn.Module, optimizer: torch.optim.Optimizer, **kwargs: Any
    ) -> PyTorchClassifier:
        """One of ART's PyTorch classifiers of images in [0, 1], with cross-entropy unless a loss is given."""
        fixed = {
            "loss": nn.CrossEntropyLoss(),
            "input_shape": self.dataset.input_shape,
            "nb_classes": self.dataset.nb_classes,
            "clip_values": (0.0, 1.0),
            "device_type": self.art_device,
        }
        return kind(model=model, optimizer=optimizer, **{**fixed, **kwargs})

    def fit(self, trainer: Trainer, **kwargs: Any) -> PyTorchClassifier:
        """
        Train with any ART trainer, and return its classifier. Trainers of this package get a schedule and checkpoints,
        others data and epochs; further arguments are those of `fit`.
        """
        x, y, classifier = self.dataset.x_train, self.dataset.y_train, trainer.get_classifier()
        if isinstance(trainer, SensRegTrainer):
            folder = self.checkpoint_dir
            trainer.fit(
                x,
                y,
                scheduler=self.one_cycle(classifier),
                checkpoint_dir=folder,
                resume=folder is not None,
                verbose=False,
                **kwargs,
            )
        else:  # some of ART's trainers take no class indices
            trainer.fit(x, self.one_hot, batch_size=self.batch_size, nb_epochs=self.epochs, **kwargs)
        return trainer.get_classifier()

    def one_cycle(self, classifier: PyTorchClassifier) -> OneCycleLR:
        """A one-cycle schedule of the classifier's optimizer, which is stepped after every batch."""
        return OneCycleLR(classifier.optimizer, self.learning_rate, total_steps=self.steps + 1)

    def plain_step_seconds(self, steps: int = 30, patience: float = 3.0) -> float:
        """
        Median seconds of a cross-entropy step in a plain PyTorch loop, the unit of `step_cost`. The loop of a large
        model ends after `patience` seconds, with three steps at least.
        """
        device = torch.device(self.device)
        model = self.new_model().to(device).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=self.learning_rate)
        x = torch.from_numpy(self.dataset.x_train[: self.batch_size * 8]).to(device)
        y = torch.from_numpy(self.dataset.y_train[: self.batch_size * 8]).to(device)
        seconds: list[float] = []
        while len(seconds) < 3 or (len(seconds) < steps and sum(seconds) < patience):
            start = time.perf_counter()
            batch = torch.randint(len(x), (min(self.batch_size, len(x)),), device=device)
            loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()  # waits for a GPU
            seconds.append(time.perf_counter() - start)
        return sorted(seconds)[len(seconds) // 2]
