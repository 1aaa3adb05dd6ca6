"""The context of a run's stages: the suite as a whole, and one trained defence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from art_sensreg.benchmark.config.settings import SuiteSettings
from art_sensreg.benchmark.defences.registry import DEFENCES, optimization_of, options_of
from art_sensreg.benchmark.defences.spec import Defence, Options
from art_sensreg.benchmark.defences.train_spec import TrainingSpec
from art_sensreg.benchmark.engine.target import Target
from art_sensreg.benchmark.results.masks import mask_name
from art_sensreg.benchmark.results.records import RunRecord
from art_sensreg.benchmark.results.store import ResultStore
from art_sensreg.classifiers import SensRegClassifier
from art_sensreg.datasets import Dataset
from art_sensreg.training.distributed import Processes


def training_spec(settings: SuiteSettings, dataset: Dataset, seed: int, name: str = "none") -> TrainingSpec:
    """What every defence of a seed is trained with; how its weights are optimised may be its own."""
    optimization, learning_rate = optimization_of(settings, name)
    return TrainingSpec(
        dataset=dataset,
        model=settings.model,
        activation=settings.activation,
        norm_layer=settings.norm_layer,
        weights=settings.weights,
        seed=seed,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=learning_rate,
        optimization=optimization,
        norm=settings.threats[0].norm,
        eps=max(settings.threats[0].eps),
        device=settings.device,
    )


@dataclass(frozen=True, kw_only=True)
class SuiteContext:
    """What all stages share: settings, data, where records go, and the processes that share the work."""

    settings: SuiteSettings
    dataset: Dataset
    store: ResultStore
    processes: Processes = Processes()  # noqa: RUF009 - frozen

    def training_spec(self, seed: int, name: str = "none") -> TrainingSpec:
        """What a defence is trained with."""
        return training_spec(self.settings, self.dataset, seed, name)

    def record(self, name: str, seed: int) -> RunRecord:
        """What is stored of a run that was trained."""
        found = self.store.results.run(name, seed)
        assert found is not None, f"{name} with seed {seed} has no record"
        return found


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """
    A trained defence, ready to be attacked, with other trained models of the same seed, by the name of their defence.
    `clean` says which images are classified correctly unattacked, `(n,)`; False of images that are not attacked.
    """

    suite: SuiteContext
    name: str
    seed: int
    target: Target
    surrogates: Mapping[str, SensRegClassifier] = field(default_factory=dict)
    clean: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))

    @property
    def defence(self) -> Defence:
        """What the suite knows of the defence."""
        return DEFENCES[self.name]

    @property
    def options(self) -> Options:
        """The options of the defence."""
        return options_of(self.suite.settings, self.name)

    @property
    def record(self) -> RunRecord:
        """What is stored of the run by now."""
        return self.suite.record(self.name, self.seed)

    def images(self, most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The test images that are attacked, the first `most` of them, and their class indices."""
        dataset = self.suite.dataset
        n = self.target.attackable(min(len(dataset.x_test), len(dataset.x_test) if most is None else most))
        return dataset.x_test[:n], dataset.y_test[:n]

    def mask_name(self, attack: str, norm: str, eps: float, *more: Any) -> str:
        """Where the outcome of an attack is stored."""
        return mask_name(self.name, f"seed{self.seed}", attack, norm, eps, *more)
