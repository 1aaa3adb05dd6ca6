"""What a second reading of the audit found: honest models that are unusual, and faults that hide well."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg import SensitivityPenalty, audit
from art_sensreg.datasets import Dataset
from tests.auditing.models.honest import honest_model

CLIP = {"clip_values": (0.0, 1.0), "device_type": "cpu"}


@pytest.fixture(scope="module")
def plain(digits: Dataset) -> PyTorchClassifier:
    return honest_model("plain", digits)[0]


def wrapped(model: nn.Module, digits: Dataset, **kwargs) -> PyTorchClassifier:
    return PyTorchClassifier(model, nn.CrossEntropyLoss(), digits.input_shape, 10, **{**CLIP, **kwargs})


def verdict(classifier, digits: Dataset, n: int = 40, **kwargs) -> str:
    x, y = digits.x_test[:n], digits.y_test[:n]
    return audit(classifier, x, y, **{"eps": 0.1, "quick": True, **kwargs}).verdict


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_eps_zero_where_some_images_are_misclassified(digits, plain, norm):
    y = digits.y_test[:40].copy()
    y[:10] = (y[:10] + 1) % 10
    report = audit(plain, digits.x_test[:40], y, eps=0.5, norm=norm, checks=["eps_zero_is_clean", "budget_kept"])
    assert report.settings["clean accuracy"] < 0.8
    assert report.verdict == "no failure detected"


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_images(digits, plain, n):
    assert verdict(plain, digits, n, checks=["batch_independent", "deterministic"]) == "no failure detected"


def test_a_float64_model_of_a_plain_classifier(digits, plain):
    classifier = wrapped(copy.deepcopy(plain.model).double(), digits)
    checks = ["eval_mode", "deterministic", "loss_gradient_is_the_models", "white_box_beats_black_box", "budget_kept"]
    assert verdict(classifier, digits, checks=checks) == "no failure detected"


def test_a_classifier_without_clip_values(digits, plain):
    classifier = wrapped(plain.model, digits, clip_values=None)
    checks = ["inputs_in_range", "white_box_beats_black_box", "unconstrained_attack_succeeds", "budget_kept"]
    assert verdict(classifier, digits, checks=checks) == "no failure detected"


def test_one_output_for_two_classes(digits):
    rows = np.flatnonzero(np.isin(digits.y_train, (0, 1)))
    x, y = digits.x_train[rows], digits.y_train[rows]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(50):
        logits = model(torch.from_numpy(x))[:, 0]
        loss = nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(y).float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    classifier = PyTorchClassifier(model, nn.BCEWithLogitsLoss(), digits.input_shape, 2, **CLIP)
    assert audit(classifier, x, y, eps=0.1, quick=True).verdict == "no failure detected"


class ForwardMode(nn.Module):
    """Moves its input along a derivative taken in forward mode."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            ones = torch.ones_like(x)
            _, slope = torch.func.jvp(lambda images: self.model(images).logsumexp(1), (x,), (ones,))
            moved = x + 0.01 * slope.sign()[:, None, None, None] * ones
        return self.model(x + (moved - x).detach())


class Partly(nn.Module):
    """The gradient is a twentieth of what it should be."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(0.95 * x.detach() + 0.05 * x)


class LateBatches(nn.Module):
    """Rows see each other in large batches only."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.model(x)
        return logits if len(x) < 60 else logits + 0.5 * logits.mean(0)


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        (ForwardMode, "no_autograd_in_forward"),
        (Partly, "gradients_hold_at_step_size"),
        (LateBatches, "batch_independent"),
    ],
)
def test_faults_that_hide_well(digits, plain, kind, check):
    assert verdict(wrapped(kind(plain.model), digits), digits, 80, checks=[check]) == f"do not trust: {check}"


def test_one_thing_is_as_good_as_a_list(digits, plain):
    checks = ["hidden_distances_gain_little", "transfer_from_surrogates"]
    alone = verdict(plain, digits, checks=checks, penalties=SensitivityPenalty(), surrogates=plain)
    assert alone == verdict(plain, digits, checks=checks, penalties=[SensitivityPenalty()], surrogates=[plain])


def test_wrong_companions(digits, plain):
    with pytest.raises(TypeError, match="`penalties` holds int"):
        verdict(plain, digits, penalties=[3])
    with pytest.raises(ValueError, match="`twin` has `clip_values`"):
        verdict(plain, digits, twin=wrapped(plain.model, digits, clip_values=(0.0, 2.0)))
    with pytest.raises(ValueError, match="`checks` is"):
        verdict(plain, digits, checks=[[1]])
