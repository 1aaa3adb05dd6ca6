"""Adaptive checks: what they attack, and with what."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from art_sensreg import RandomizedClassifier, SensitivityPenalty, SensRegClassifier
from art_sensreg.auditing.checks import adaptive
from tests.auditing.models.planted import PLANTED
from tests.auditing.models.planted_base import Front, wrap
from tests.auditing.reports import context_of, report_of, statuses


def noisy(x: torch.Tensor) -> torch.Tensor:
    return x + 0.1 * torch.randn_like(x)


def test_a_random_model_is_judged_by_its_samples_if_it_is_declared(digits, plain):
    undeclared = wrap(digits, Front(plain.model, noisy), SensRegClassifier)
    declared = wrap(digits, Front(plain.model, noisy), RandomizedClassifier, samples=16)
    checks = [
        "deterministic",
        "batch_independent",
        "eot_samples_suffice",
        "repeated_scoring_agrees",
        "gradients_not_zero",
    ]
    first = report_of(undeclared, digits, 40, checks=checks)
    second = report_of(declared, digits, 40, checks=checks)
    assert first["deterministic"].status == "FAIL"
    assert second["deterministic"].status == "N/A"
    assert second["batch_independent"].status == "N/A"
    assert "at 1, 4, 16 samples" in second["eot_samples_suffice"].note
    assert second["repeated_scoring_agrees"].value > 0


def test_penalties_say_which_layers_are_attacked(digits, plain, monkeypatch):
    asked = []

    class Spy(adaptive.HiddenDistanceAttack):
        def __init__(self, *args, **kwargs):
            asked.append(kwargs["layers"])
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(adaptive, "HiddenDistanceAttack", Spy)
    layers = ["features.0"]
    checks = ["hidden_distances_gain_little"]
    report_of(plain, digits, checks=checks, penalties=[SensitivityPenalty(layers=layers)])
    assert asked == [layers, layers]


def test_images_of_the_twin_break_a_model_that_hides_its_gradient(digits, plain):
    masked = PLANTED["quantisation"].build(digits, plain.model)
    assert statuses(masked, digits, ["transfer_from_twin"], twin=plain, n=40) == {"transfer_from_twin": "FAIL"}


@pytest.mark.parametrize("given", [300, 0])
def test_without_surrogates_one_is_trained_if_there_are_data(digits, tiny, given):
    data = (digits.x_train[:given], digits.y_train[:given]) if given else None
    context = context_of(tiny, digits.x_test[:60], digits.y_test[:60], train_data=data)
    surrogates = adaptive._trained_surrogate(context)
    assert len(surrogates) == (1 if given else 0)
    for surrogate in surrogates:
        assert np.mean(surrogate.predict(digits.x_test).argmax(1) == digits.y_test) > 0.7
