"""Label smoothing and distillation: what they train, and what distillation hides."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from art.attacks.evasion import ProjectedGradientDescent
from torch.nn.functional import cross_entropy

from art_sensreg.attacks import TargetedMarginAttack
from art_sensreg.benchmark.defences.from_art.soft_labels import (
    DISTILLATION_FIXED_OPTIONS,
    DISTILLATION_OPTIONS,
    LABEL_SMOOTHING_OPTIONS,
    AtTemperature,
    SoftCrossEntropy,
    train_distillation,
    train_distillation_fixed,
    train_label_smoothing,
)
from tests.benchmark.defences.from_art.training import accuracy, small_spec, trained
from tests.conftest import same_weights, weights_of

TRAINED = [
    (train_label_smoothing, LABEL_SMOOTHING_OPTIONS),
    (train_distillation, DISTILLATION_OPTIONS),
    (train_distillation_fixed, DISTILLATION_FIXED_OPTIONS),
]


@pytest.mark.parametrize(("train", "options"), TRAINED)
def test_learns_and_is_the_same_for_the_same_seed(digits, train, options):
    spec = small_spec(digits, n=600, model="cnn-small", epochs=8)
    classifier = trained(train, spec, options)
    assert accuracy(spec, classifier.model) > 0.6
    assert same_weights(weights_of(classifier), weights_of(trained(train, spec, options)))
    assert not same_weights(weights_of(classifier), weights_of(trained(train, replace(spec, seed=1), options)))


def test_the_loss_is_cross_entropy_at_the_temperature():
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 4).double() * 3, torch.rand(5, 4).double().softmax(dim=1)
    found = SoftCrossEntropy()(AtTemperature(torch.nn.Identity(), 2.5)(logits), labels)
    torch.testing.assert_close(found, cross_entropy(logits / 2.5, labels))
    one_hot = torch.eye(2)
    assert torch.isfinite(SoftCrossEntropy()(one_hot, one_hot.flip(0)))


def test_smoothed_labels_keep_the_predictions_near_them(digits):
    spec = small_spec(digits, n=600, model="cnn-small", epochs=12)
    x = digits.x_train[:600]
    for value in (0.9, 0.6):
        classifier = trained(train_label_smoothing, spec, {"max_value": value})
        highest = torch.softmax(torch.from_numpy(classifier.predict(x)), dim=1).amax(dim=1).mean()
        assert abs(float(highest) - value) < 0.12


def test_distillation_hides_the_gradient_of_cross_entropy_alone(digits):
    """Carlini and Wagner 2017, arXiv 1608.04644: what stops PGD does not stop an attack on margins."""
    spec = small_spec(digits, n=1000, model="cnn-small", epochs=24)
    classifier = trained(train_distillation_fixed, spec, {"temperature": 100.0, "learning_rate": 3e-3})
    x, y = digits.x_test[:60], digits.y_test[:60]
    pgd = ProjectedGradientDescent(classifier, eps=0.2, eps_step=0.02, max_iter=40, verbose=False)
    attacks = {"pgd": pgd, "margin": TargetedMarginAttack(classifier, eps=0.2, max_iter=40, seed=0)}
    left = {
        name: np.mean(classifier.predict(attack.generate(x, y=y)).argmax(axis=1) == y)
        for name, attack in attacks.items()
    }
    assert left["pgd"] > 0.5
    assert left["margin"] < 0.1
