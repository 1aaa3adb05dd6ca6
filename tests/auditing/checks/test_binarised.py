"""In a binarised copy an adversarial example exists by construction: attacks that work must find it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from art.attacks.evasion import (
    AutoProjectedGradientDescent,
    BasicIterativeMethod,
    MomentumIterativeMethod,
    ProjectedGradientDescent,
)
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.attacks import ProjectedAscent, differentiable_model
from art_sensreg.attacks.base.norms import Ball
from art_sensreg.auditing.checks.binarised import BinarisedCopies
from art_sensreg.datasets import Dataset
from tests.auditing.models.honest import honest_model

EPS, IMAGES = 0.1, 40
STEPS = {"eps": EPS, "eps_step": 2.5 * EPS / 40, "max_iter": 40, "verbose": False}


def official(classifier):
    pytest.importorskip("pyautoattack")
    from art_sensreg.attacks.autoattack.attack import OfficialAutoAttack

    return OfficialAutoAttack(classifier, eps=EPS, attacks=("apgd-ce",), nb_iter=40)


ATTACKS = {
    "ART PGD": lambda classifier: ProjectedGradientDescent(classifier, **STEPS),
    "ART BIM": lambda classifier: BasicIterativeMethod(classifier, **STEPS),
    "ART MIM": lambda classifier: MomentumIterativeMethod(classifier, **STEPS),
    "ART APGD": lambda classifier: AutoProjectedGradientDescent(
        classifier, eps=EPS, eps_step=2 * EPS, max_iter=40, nb_random_init=1, loss_type="cross_entropy", verbose=False
    ),
    "official APGD-CE": official,
    "ours": lambda classifier: ProjectedAscent(classifier, eps=EPS, max_iter=40),
}


@pytest.fixture(scope="module")
def copies(digits: Dataset) -> BinarisedCopies:
    classifier, x, y = honest_model("sr_jr", digits)
    x = x[classifier.predict(x).argmax(axis=1) == y][:IMAGES]
    generator = torch.Generator().manual_seed(0)
    ball = Ball("linf", EPS, 0.0, 1.0)
    model = differentiable_model(classifier)
    return BinarisedCopies(model, torch.from_numpy(x), ball, generator, tapped=classifier.model).eval()


@pytest.fixture(scope="module")
def images(digits: Dataset) -> np.ndarray:
    classifier, x, y = honest_model("sr_jr", digits)
    return x[classifier.predict(x).argmax(axis=1) == y][:IMAGES]


def test_images_are_one_class_and_the_border_points_the_other(copies, images):
    x = torch.from_numpy(images)
    assert copies(x).argmax(1).tolist() == [0] * IMAGES
    assert copies(copies.border).argmax(1).tolist() == [1] * IMAGES
    assert float((copies.border - x).abs().max()) <= EPS + 1e-6


def test_random_points_hardly_ever_cross(copies, images):
    """Else it would not take an attack to break a copy."""
    generator, ball = torch.Generator().manual_seed(1), Ball("linf", EPS, 0.0, 1.0)
    x = torch.from_numpy(images)
    crossed = [copies(ball.inside(x, generator)).argmax(1).float().mean().item() for _ in range(20)]
    assert np.mean(crossed) < 0.1


def test_a_single_copy_agrees_with_the_batch_of_all_copies(copies, images):
    x = torch.from_numpy(images)
    assert torch.allclose(copies.single(3)(x[3:4])[0], copies(x)[3], atol=1e-4)


@pytest.mark.parametrize("name", ATTACKS)
def test_each_iterative_gradient_attack_breaks_19_of_20(copies, images, name):
    broken = []
    for index in range(IMAGES):
        classifier = PyTorchClassifier(
            copies.single(index), nn.CrossEntropyLoss(), images.shape[1:], 2, clip_values=(0.0, 1.0), device_type="cpu"
        )
        found = ATTACKS[name](classifier).generate(images[index : index + 1], y=np.array([[1.0, 0.0]]))
        assert np.abs(found - images[index]).max() <= EPS + 1e-6
        broken.append(classifier.predict(found).argmax(axis=1)[0] == 1)
    assert np.mean(broken) >= 0.95
