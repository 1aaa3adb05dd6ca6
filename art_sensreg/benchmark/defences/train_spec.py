"""The data and settings that all defences of a run are trained with, so that their results are comparable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from art.defences.trainer import Trainer
from art.estimators.classification import PyTorchClassifier
from art.utils import to_categorical
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from art_sensreg.augmented_data import AugmentedImages
from art_sensreg.benchmark.config.networks import Network
from art_sensreg.benchmark.config.optimization import OptimizationSettings
from art_sensreg.benchmark.config.threat_models import NORMS
from art_sensreg.benchmark.defences.optimization import (
    NotFollowedError,
    OptimizerHooks,
    make_optimizer,
    make_schedule,
    one_cycle,
    resolved,
)
from art_sensreg.classifiers import SensRegClassifier
from art_sensreg.datasets import Dataset
from art_sensreg.penalties.forward.batch_norm import batch_norms
from art_sensreg.trainers import SensRegTrainer
from art_sensreg.training.config import TrainingConfig


class NotApplicable(Exception):
    """A defence cannot run here, for the reason given: this is recorded in the table, and is not a failure."""


def is_one_left(dataset: Dataset, batch_size: int) -> bool:
    """Whether a single training image is left for the last batch."""
    n = len(dataset.x_train)
    return n > batch_size and n % batch_size == 1


def without_one(dataset: Dataset) -> Dataset:
    """The data set without its last training image."""
    return dataset.limited(train_size=len(dataset.x_train) - 1)


@dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """
    Data, architecture and training settings, the same for every defence of a run.

    :param dataset: The data. Where the model has BatchNorm, a training image that would be alone in the last batch is
        left out: it has no statistics.
    :param model: Name of the model.
    :param activation: Name of the activation.
    :param norm_layer: `none` or `batch`.
    :param weights: File with the weights that the model begins with; None: those that it is built with.
    :param seed: Seed of the initial weights and of training.
    :param epochs: Passes over the training data.
    :param batch_size: Examples in a training step.
    :param learning_rate: Peak of the schedule.
    :param norm: `linf`, `l2` or `l1`, for adversarial training.
    :param eps: Size of the perturbations in adversarial training.
    :param device: `cpu` or `cuda`.
    :param checkpoint_dir: Where a training run may leave what it needs to be resumed, or None.
    :param optimization: How the weights are optimised.
    :param taken: The names of those settings of the optimisation that a training has taken into account.
    :param history: Where :meth:`fit` leaves what a trainer of this package noted of each epoch.
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
    optimization: OptimizationSettings = OptimizationSettings()  # noqa: RUF009 - frozen
    taken: set[str] = field(default_factory=set, compare=False, repr=False)
    history: list[dict[str, Any]] = field(default_factory=list, compare=False, repr=False)

    def __post_init__(self) -> None:
        # ART's trainers would fail on such a batch, and ours do a step less than the schedule is laid out for.
        if is_one_left(self.dataset, self.batch_size):
            with torch.random.fork_rng(devices=[]):
                normalised = batch_norms(self.new_model())
            if normalised:
                object.__setattr__(self, "dataset", without_one(self.dataset))

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
        fixed: dict[str, Any] = {"batch_size": self.batch_size, "nb_epochs": self.epochs, "seed": self.seed}
        self.taken.update(("schedule", "weight_average", "max_grad_norm", "precision", "augment"))
        if self.optimization.schedule is not None:
            fixed["scheduler_interval"] = "step"
        if self.optimization.weight_average is not None:
            fixed.update(ema=self.optimization.weight_average, ema_warmup=True)
        if self.optimization.max_grad_norm is not None:
            fixed["max_grad_norm"] = self.optimization.max_grad_norm
        if self.optimization.precision is not None:
            fixed["precision"] = self.optimization.precision
        if self.optimization.augmentation is not None:
            fixed["augmentation"] = self.optimization.augmentation
        return TrainingConfig(**{**fixed, **settings})

    def loss(self) -> nn.CrossEntropyLoss:
        """The loss that is trained with: cross-entropy, with label smoothing if that is asked for."""
        self.taken.add("label_smoothing")
        return nn.CrossEntropyLoss(label_smoothing=self.optimization.label_smoothing or 0.0)

    def optimizer(
        self,
        parameters: Iterable[nn.Parameter],
        rate: float | None = None,
        own: OptimizationSettings | None = None,
    ) -> torch.optim.Optimizer:
        """The optimizer of some parameters; `own` is what a defence does where nothing is asked for: Adam, mostly."""
        self.taken.update(("optimizer", "momentum", "weight_decay"))
        return make_optimizer(
            parameters, rate or self.learning_rate, resolved(self.optimization, own or OptimizationSettings())
        )

    def art_classifier(self, learning_rate: float | None = None, sgd: float | None = None) -> PyTorchClassifier:
        """
        A plain ART classifier with a new model, as ART's trainers take it; with the run's optimizer at a learning rate
        (None: the peak of the schedule), or with plain SGD at another.
        """
        model = self.new_model()
        optimizer: torch.optim.Optimizer
        if sgd is not None:
            optimizer = torch.optim.SGD(model.parameters(), lr=sgd)
        else:
            optimizer = self.optimizer(model.parameters(), learning_rate)
        return self.estimator(PyTorchClassifier, model, optimizer, loss=self.loss())

    def trainee(self, model: nn.Module) -> SensRegClassifier:
        """The classifier that this package's defences are trained as, with the run's optimizer and loss."""
        classifier = self.classifier(model, loss=self.loss())
        classifier._optimizer = self.optimizer(model.parameters())
        return classifier

    def classifier(
        self, model: nn.Module | None = None, kind: type[SensRegClassifier] = SensRegClassifier, **kwargs: Any
    ) -> SensRegClassifier:
        """
        The classifier through which every model is attacked: its loss is plain cross-entropy, whatever was trained
        with. Without a model it gets a new one; further arguments are those of its class.
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
        classifier = trainer.get_classifier()
        if isinstance(trainer, SensRegTrainer):
            x, y = self.dataset.x_train, self.dataset.y_train
            folder = self.checkpoint_dir
            trainer.fit(
                x,
                y,
                scheduler=self._schedule(trainer),
                checkpoint_dir=folder,
                resume=folder is not None,
                verbose=False,
                **kwargs,
            )
            self.history.extend(trainer.history)
        else:  # some of ART's trainers take no class indices
            with self.hooked(classifier.optimizer, classifier.model), self.images() as x:
                trainer.fit(x, self.one_hot, batch_size=self.batch_size, nb_epochs=self.epochs, **kwargs)
        return trainer.get_classifier()

    @contextmanager
    def images(self) -> Iterator[Any]:
        """
        The training images for a trainer that draws each batch of them by indices: augmented, if that is asked for.

        :raises NotApplicable: If it has not drawn so many batches.
        """
        augmented = self._augmented()
        yield self.dataset.x_train if augmented is None else augmented
        if augmented is not None and augmented.drawn != self.steps:
            raise NotApplicable(f"its trainer drew {augmented.drawn} batches of augmented images, not {self.steps}")

    def epochs_of_images(self) -> Iterator[tuple[np.ndarray, int]]:
        """
        The training images, and for how many epochs, for a trainer that takes them as one array: for all of them, or
        augmented anew for each.
        """
        augmented = self._augmented()
        if augmented is None:
            yield self.dataset.x_train, self.epochs
            return
        for _ in range(self.epochs):
            yield augmented[np.arange(len(augmented))], 1

    def _augmented(self) -> AugmentedImages | None:
        self.taken.add("augment")
        augmentation = self.optimization.augmentation
        return None if augmentation is None else AugmentedImages(self.dataset.x_train, augmentation, self.seed)

    def one_cycle(self, classifier: PyTorchClassifier) -> OneCycleLR | None:
        """
        A one-cycle schedule of the classifier's optimizer, which is stepped after every batch. None if the run asks for
        a schedule, which :meth:`hooked` follows.
        """
        if self.optimization.schedule is not None:
            return None
        return one_cycle(classifier.optimizer, self.learning_rate, self.steps + 1)

    def _schedule(self, trainer: SensRegTrainer) -> LRScheduler | None:
        """The schedule for a trainer of this package."""
        classifier, asked = trainer.get_classifier(), self.optimization.schedule
        if asked is None:
            return self.one_cycle(classifier)
        if trainer.config.scheduler_interval != "step":
            raise NotApplicable(f"its trainer has a config of its own, not that of the run: no schedule {asked!r}")
        return make_schedule(classifier.optimizer, asked, self.steps)

    @contextmanager
    def hooked(
        self,
        optimizer: torch.optim.Optimizer,
        model: nn.Module,
        steps: int | None = None,
        refresh: Callable[[], None] | None = None,
        at_steps: bool = True,
    ) -> Iterator[OptimizerHooks]:
        """
        Let an optimizer follow the schedule of the run, its gradients be clipped, and the model end as the average of
        its weights, in a training that knows of none of them; nothing is done that is not asked for. Arguments as for
        :class:`OptimizerHooks`.

        :raises NotApplicable: If other steps were done than those that the schedule was laid out for.
        """
        self.taken.update(("schedule", "weight_average", "max_grad_norm"))
        hooks = OptimizerHooks(model, self.optimization, steps or self.steps, refresh, at_steps)
        hooks.attach(optimizer)
        yield hooks
        try:
            hooks.finish()
        except NotFollowedError as error:
            raise NotApplicable(f"its trainer cannot be optimised as asked for: {error}") from error
