"""What the tests of ART's trainers share: small specifications, seeded training, accuracy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from art.attacks.evasion import ProjectedGradientDescent

from art_sensreg.benchmark.defences import TrainingSpec
from art_sensreg.datasets import Dataset


def small_spec(digits: Dataset, n: int = 300, **kwargs: Any) -> TrainingSpec:
    settings = {"model": "mlp", "epochs": 3, "learning_rate": 0.01, "norm": "linf", "eps": 0.1, "batch_size": 32}
    dataset = replace(digits, x_train=digits.x_train[:n], y_train=digits.y_train[:n])
    fixed = {"dataset": dataset, "activation": "relu", "norm_layer": "none", "seed": 0, "device": "cpu"}
    return TrainingSpec(**{**fixed, **settings, **kwargs})


def accuracy(spec: TrainingSpec, model: torch.nn.Module) -> float:
    """On the test images, of a new model of the specification with these weights: they must fit into it."""
    fresh = spec.new_model()
    fresh.load_state_dict(model.state_dict())
    predicted = spec.classifier(fresh).predict(spec.dataset.x_test).argmax(axis=1)
    return float((predicted == spec.dataset.y_test).mean())


def trained(train: Any, spec: TrainingSpec, options: dict[str, Any], seed: int = 0) -> Any:
    torch.manual_seed(seed)
    np.random.seed(seed)
    return train(spec, options)


def broken(spec: TrainingSpec, model: torch.nn.Module, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Images that PGD breaks at the training eps, or that are misclassified anyway."""
    classifier = spec.classifier(model)
    attack = ProjectedGradientDescent(
        classifier, eps=spec.eps, eps_step=spec.eps / 4, max_iter=40, num_random_init=2, batch_size=500, verbose=False
    )
    adversarial = attack.generate(x, np.eye(10, dtype=np.float32)[y])
    wrong: np.ndarray = (classifier.predict(adversarial).argmax(1) != y) | (classifier.predict(x).argmax(1) != y)
    return wrong
