"""Gradients: found to be missing, wrong or useless, and not where they are right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg import SensRegClassifier, audit
from art_sensreg.attacks import BPDA
from tests.auditing.models.planted_base import Front, wrap
from tests.auditing.reports import report_of


def test_a_gradient_a_twentieth_of_what_it_should_be_does_not_hold_at_step_size(digits, plain):
    classifier = wrap(digits, Front(plain.model, lambda x: 0.95 * x.detach() + 0.05 * x))
    report = report_of(classifier, digits, 80, checks=["gradients_hold_at_step_size"])
    assert report.verdict == "do not trust: gradients_hold_at_step_size"


def test_a_declared_surrogate_gradient_is_no_fault(digits, plain):
    """A quantiser alone fails; behind BPDA the attack works, and the gradient need not be the derivative."""

    def quantise(x: torch.Tensor) -> torch.Tensor:
        return torch.round(x * 8) / 8

    checks = [
        "gradients_not_zero",
        "gradients_match_differences",
        "gradients_hold_at_step_size",
        "binarised_copies_fall",
    ]
    classifier = wrap(digits, BPDA(plain.model, quantise), SensRegClassifier)
    report = report_of(classifier, digits, 60, eps=0.2, checks=checks, quick=False)
    assert report.verdict == "no failure detected"


@pytest.mark.parametrize("check", ["gradients_not_zero", "gradients_finite"])
def test_the_fraction_of_bad_gradients_is_counted(check):
    """Half of the images have a gradient of zero, or of NaN."""
    bad = 0.0 if check == "gradients_not_zero" else float("nan")

    class Half(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z = x.flatten(1) @ torch.tensor([[-1.0, 1.0]] * 4)
            if z.requires_grad:
                z.register_hook(lambda grad: torch.where(torch.arange(len(x))[:, None] % 2 == 0, grad, bad * grad))
            return z

    model, loss = nn.Sequential(Half()), nn.CrossEntropyLoss()
    classifier = SensRegClassifier(model, loss, (1, 2, 2), 2, clip_values=(0, 1), device_type="cpu")
    x = np.random.default_rng(0).random((20, 1, 2, 2), dtype=np.float32)
    found = audit(classifier, x, np.ones(20, dtype=int), eps=0.1, quick=True, checks=[check])[check]
    assert (found.value, found.status) == (0.5, "FAIL")


def test_ties_on_a_flat_background_are_no_fault_of_the_gradient():
    """Under a max-pooling all neighbours of a flat patch are equal: a kink at the image, and none beside it."""
    errors = []
    for seed in range(2):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(3, 2, 1), nn.Flatten(), nn.Linear(32, 4),
        )  # fmt: skip
        x, rng = np.zeros((16, 1, 8, 8), np.float32), np.random.default_rng(seed)
        x[np.arange(16), 0, rng.integers(8, size=16), rng.integers(8, size=16)] = rng.random(16)
        loss = nn.CrossEntropyLoss()
        classifier = SensRegClassifier(model, loss, (1, 8, 8), 4, clip_values=(0, 1), device_type="cpu")
        y = classifier.predict(x).argmax(axis=1)
        (found,) = audit(classifier, x, y, eps=0.1, quick=True, checks=["gradients_match_differences"]).checks
        assert found.status == "PASS"
        errors.append(found.value)
        flipped = reversed_gradient(model)
        (found,) = audit(flipped, x, y, eps=0.1, quick=True, checks=["gradients_match_differences"]).checks
        assert found.status == "FAIL"
    assert max(errors) < 0.05


def reversed_gradient(model: nn.Module) -> SensRegClassifier:
    class Flipped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.model(2 * x.detach() - x)

    return SensRegClassifier(Flipped(), nn.CrossEntropyLoss(), (1, 8, 8), 4, clip_values=(0, 1), device_type="cpu")
