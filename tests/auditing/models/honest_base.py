"""What the honest models are made of: the list, and training in several ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegTrainer, TrainingConfig
from art_sensreg.benchmark.defences.registry import DEFENCES
from art_sensreg.benchmark.defences.train_spec import TrainingSpec
from art_sensreg.datasets import Dataset
from art_sensreg.models import build_model
from tests.auditing.models.planted_base import fitted, seeded, wrap

Build = Callable[[Dataset], PyTorchClassifier]
HONEST: dict[str, Build] = {}


def honest(build: Build) -> Build:
    HONEST[build.__name__] = build
    return build


def task(digits: Dataset, eps: float = 0.1, epochs: int = 12, **kwargs: Any) -> TrainingSpec:
    settings = {"model": "cnn-small", "activation": "relu", "norm_layer": "none", "seed": 0, **kwargs}
    rates: dict[str, Any] = {"batch_size": 64, "learning_rate": 3e-3, "norm": "linf", "device": "cpu"}
    return TrainingSpec(dataset=digits, eps=eps, epochs=epochs, **settings, **rates)


def defended(digits: Dataset, defence: str, **kwargs: Any) -> PyTorchClassifier:
    """A defence of the suite. ART's trainers draw from numpy's global state."""
    state = np.random.get_state()
    np.random.seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        entry = DEFENCES[defence]
        classifier = entry.train(
            task(digits, **kwargs), {**entry.options, **({"max_iter": 5} if "madry" in defence else {})}
        )
    np.random.set_state(state)
    return classifier


def trained(
    digits: Dataset, make: Callable[[], nn.Module], epochs: int = 12, kind: Any = PyTorchClassifier, **kwargs: Any
) -> PyTorchClassifier:
    return wrap(digits, fitted(seeded(make), digits, epochs, **kwargs), kind)


def suite_model(digits: Dataset, name: str = "cnn-small", *choices: str) -> Callable[[], nn.Module]:
    return lambda: build_model(name, digits.input_shape, digits.nb_classes, *choices)


def penalised(digits: Dataset, *choices: str, sigma: float = 0.3, weight: float = 0.3) -> PyTorchClassifier:
    """Trained by this package's own trainer."""
    suite = task(digits)
    classifier = suite.classifier(seeded(suite_model(digits, "cnn-small", *choices)))
    penalties = [SensitivityPenalty(sigma=sigma, weight=weight), JacobianPenalty(weight=0.1)]
    trainer = SensRegTrainer(classifier, penalties, TrainingConfig(batch_size=64, nb_epochs=12, seed=0))
    trainer.fit(digits.x_train, digits.y_train, scheduler=suite.one_cycle(classifier), verbose=False)
    return classifier
