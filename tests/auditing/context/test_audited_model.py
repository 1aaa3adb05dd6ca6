"""The classifier under audit, and its predictions."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from art_sensreg import RandomizedClassifier
from art_sensreg.auditing.context.audited_model import output_scale
from tests.auditing.models.planted_base import Front, wrap
from tests.auditing.reports import context_of


def test_correct_images_are_those_of_the_classifiers_own_predictions(digits, tiny):
    y = digits.y_test[:40].copy()
    y[:5] = (y[:5] + 1) % 10
    model = context_of(tiny, digits.x_test[:40], y).model
    expected = np.flatnonzero(tiny.predict(digits.x_test[:40]).argmax(1) == y)
    assert model.correct_indices.tolist() == expected.tolist()
    assert model.is_correct(digits.x_test[:0], np.arange(0)).shape == (0,)


@pytest.mark.parametrize(("double", "dtype"), [(False, torch.float32), (True, torch.float64)])
def test_attacks_compute_in_the_models_precision(digits, tiny, double, dtype):
    classifier = wrap(digits, copy.deepcopy(tiny.model).double() if double else tiny.model)
    model = context_of(classifier, digits.x_test[:4], digits.y_test[:4]).model
    x, y = model.tensors(np.array([2, 0]))
    assert (x.dtype, model.module(x).dtype) == (dtype, dtype)
    assert y.tolist() == digits.y_test[[2, 0]].tolist()
    assert model.outputs.shape == (4, 10)


def test_a_model_whose_outputs_differ_is_random(digits, tiny):
    noisy = Front(tiny.model, lambda x: x + 0.1 * torch.randn_like(x))
    points = digits.x_test[:16], digits.y_test[:16]
    calm, wild, declared = (
        context_of(classifier, *points).model
        for classifier in (tiny, wrap(digits, noisy), wrap(digits, noisy, RandomizedClassifier, samples=2))
    )
    assert (calm.output_spread, calm.is_random, calm.declared_random) == (0.0, False, False)
    assert (wild.is_random, wild.declared_random) == (True, False)
    assert (declared.is_random, declared.declared_random) == (True, True)


def test_the_scale_of_outputs_is_their_mean_range():
    assert output_scale(np.array([[1.0, 3.0], [0.0, 4.0]])) == pytest.approx(3.0)
    assert output_scale(np.zeros((2, 3))) > 0
