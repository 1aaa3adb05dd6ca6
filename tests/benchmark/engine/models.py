"""A small trained defence, for tests of what attacks and scores it."""

import numpy as np

from art_sensreg.benchmark.defences.registry import DEFENCES
from art_sensreg.benchmark.defences.train_spec import TrainingSpec
from art_sensreg.benchmark.engine.target import Target, make_target
from art_sensreg.datasets import Dataset


def small_target(digits: Dataset, defence: str = "none", **options) -> Target:
    spec = TrainingSpec(
        dataset=digits.limited(300, 40), model="mlp", activation="relu", norm_layer="none", seed=0, epochs=3,
        batch_size=64, learning_rate=0.003, norm="linf", eps=0.1, device="cpu",
    )  # fmt: skip
    classifier = spec.classifier()
    classifier.fit(spec.dataset.x_train, spec.dataset.y_train, nb_epochs=3, batch_size=64, seed=0, verbose=False)
    return make_target(spec, classifier, DEFENCES[defence], {**DEFENCES[defence].options, **options})


def images(digits: Dataset, n: int = 20) -> tuple[np.ndarray, np.ndarray]:
    return digits.x_test[:n], digits.y_test[:n]
