"""Interval bound propagation: what is certified, the schedules, and models that are too large to unroll."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from art.defences.trainer import AdversarialTrainerCertifiedIBPPyTorch

from art_sensreg.benchmark.defences import NotApplicable
from art_sensreg.benchmark.defences.from_art.interval_bounds import (
    IBP_FIXED_OPTIONS,
    IBP_OPTIONS,
    certify_ibp,
    rising,
    train_ibp,
    train_ibp_fixed,
)
from art_sensreg.benchmark.defences.from_art.zonotopes import certify_deepz
from art_sensreg.datasets import Dataset
from tests.benchmark.defences.from_art.training import accuracy, broken, small_spec, trained
from tests.conftest import same_weights, weights_of

OPTIONS = {**IBP_FIXED_OPTIONS, "least_steps": 300, "final_weight": 0.2}


@pytest.mark.parametrize("model", ["mlp", "cnn-small"])
def test_learns_and_no_certified_image_is_broken(digits: Dataset, model: str, capsys: Any) -> None:
    spec = small_spec(digits, n=400, model=model, eps=0.02, epochs=5, learning_rate=0.003)
    classifier = trained(train_ibp_fixed, spec, OPTIONS)
    assert accuracy(spec, classifier.model) > 0.4
    x, y = digits.x_test[:150], digits.y_test[:150]
    wrong = broken(spec, classifier.model, x, y)
    certified = certify_ibp(spec, classifier.model, x, y, spec.eps, {})
    by_zonotopes = certify_deepz(spec, classifier.model, x, y, spec.eps, {"points": 150})
    for found in (certified, by_zonotopes):
        assert found.shape == (150,)
        assert found.dtype == bool
        assert not (found & wrong).any()
    assert by_zonotopes.sum() > 15
    assert capsys.readouterr().out == ""


def test_a_box_of_no_size_is_the_prediction(digits: Dataset) -> None:
    spec = small_spec(digits, model="cnn-small")
    model, x = spec.new_model(), digits.x_test[:20]
    y = spec.classifier(model).predict(x).argmax(axis=1)
    assert certify_ibp(spec, model, x, y, 0.0, {}).all()
    assert not certify_ibp(spec, model, x, (y + 1) % 10, 0.0, {}).any()


def test_schedules(digits: Dataset) -> None:
    spec = small_spec(digits, epochs=10)
    arts = AdversarialTrainerCertifiedIBPPyTorch.initialise_default_scheduler(0.0, 0.5, 10)
    shipped, fixed = (rising(spec, options, 0.5) for options in (IBP_OPTIONS, IBP_FIXED_OPTIONS))
    assert [shipped.step() for _ in range(10)] == pytest.approx([arts.step() for _ in range(10)])
    steps = [fixed.step() for _ in range(10)]
    assert steps[:2] == [0.0, 0.0]
    assert steps[4] == pytest.approx(0.5 * 3 / 7)
    assert steps[8:] == pytest.approx([0.5, 0.5])


def test_the_same_seed_gives_the_same_weights(digits: Dataset) -> None:
    spec = small_spec(digits, n=64, epochs=2)
    first, second = (trained(train_ibp_fixed, spec, OPTIONS) for _ in range(2))
    assert same_weights(weights_of(first), weights_of(second))


def test_large_convolutions_are_not_unrolled() -> None:
    x, y = np.zeros((10, 1, 28, 28), dtype=np.float32), np.arange(10)
    spec = small_spec(Dataset(name="large", x_train=x, y_train=y, x_test=x, y_test=y), model="cnn-small")
    with pytest.raises(NotApplicable, match="million entries"):
        train_ibp(spec, IBP_OPTIONS)
    assert certify_ibp(spec, spec.new_model(), x, y, 0.0, {}).sum() == 1  # one class for ten equal images
