"""Attacks whose outcome is known beforehand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg import audit
from art_sensreg.attacks.base.norms import Ball
from art_sensreg.auditing.checks import known_outcomes
from art_sensreg.auditing.checks.linear_truth import linear_margins
from tests.auditing.models.planted import PLANTED
from tests.auditing.reports import context_of, report_of, statuses


def test_a_model_of_masked_features_has_copies_that_do_not_fall(digits, plain):
    masked = PLANTED["detached_input"].build(digits, plain.model)
    assert statuses(masked, digits, ["binarised_copies_fall"], n=40) == {"binarised_copies_fall": "FAIL"}
    assert statuses(plain, digits, ["binarised_copies_fall"], n=40) == {"binarised_copies_fall": "PASS"}


def test_the_note_compares_the_twin_with_the_model(digits, plain, tiny):
    found = report_of(tiny, digits, 40, checks=["twin_falls"], twin=plain)["twin_falls"]
    assert found.status == "PASS"
    assert found.note.startswith("at eps the robust accuracy of the twin is ")


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_attack_on_the_linear_model_nearly_reaches_its_exact_worst_case(digits, tiny, norm):
    context = context_of(tiny, digits.x_test[:60], digits.y_test[:60], norm=norm)
    weight, bias = known_outcomes._fitted_linear(context)
    eps = {"linf": 0.1, "l2": 0.4, "l1": 1.0}[norm]
    reached = -known_outcomes._margins_reached(context, weight, bias, eps)
    x = context.inputs.x.astype(np.float64)
    exact = linear_margins(weight, bias, x, context.inputs.y, Ball(norm, eps, 0.0, 1.0))
    assert (reached >= exact - 1e-6).all()
    assert np.mean((reached > 0) != (exact > 0)) <= 0.05


def test_the_linear_model_works_in_the_units_of_the_images(digits, tiny):
    """Fitted to images from 0 to 255, it classifies them as well as that of images from 0 to 1."""
    x, y = digits.x_test[:100], digits.y_test[:100]
    wide = type(tiny)(tiny.model, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0, 255), device_type="cpu")
    for classifier, images in ((tiny, x), (wide, 255 * x)):
        weight, bias = known_outcomes._fitted_linear(context_of(classifier, images, y))
        assert np.mean((images.reshape(100, -1) @ weight.T + bias).argmax(1) == y) > 0.95


def test_two_classes_have_a_row_each():
    class Sum(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            score = x.flatten(1).sum(1, keepdim=True) - 2
            return torch.cat([-score, score], 1)

    settings = {"clip_values": (0.0, 1.0), "device_type": "cpu"}
    classifier = PyTorchClassifier(Sum(), nn.CrossEntropyLoss(), (1, 2, 2), 2, **settings)
    x = np.random.default_rng(0).random((60, 1, 2, 2), dtype=np.float32)
    y = classifier.predict(x).argmax(1)
    assert audit(classifier, x, y, eps=0.1, quick=True, checks=["known_weak_model_falls"]).verdict[:2] == "no"
