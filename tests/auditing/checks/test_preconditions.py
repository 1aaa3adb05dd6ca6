"""Preconditions: what is said of a model and its images before any attack."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from sklearn.metrics import cohen_kappa_score
from torch import nn

from art_sensreg import audit
from art_sensreg.auditing import Check
from art_sensreg.auditing.checks.preconditions import deviation_if_blind
from tests.auditing.models.planted import PLANTED
from tests.auditing.models.planted_base import Back, wrap
from tests.auditing.reports import report_of, statuses


class Answers(nn.Module):
    """Predicts the class that the first pixel says."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("levels", torch.arange(classes) / classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -50 * (x[:, 0, 0, :1] - self.levels).abs()


def answering(answers: np.ndarray, classes: int) -> tuple[PyTorchClassifier, np.ndarray]:
    """A classifier, and images for which its predictions are these."""
    x = np.zeros((len(answers), 1, 2, 2), np.float32)
    x[:, 0, 0, 0] = answers / classes
    model = Answers(classes)
    return PyTorchClassifier(model, nn.CrossEntropyLoss(), (1, 2, 2), classes, clip_values=(0, 1), device_type="cpu"), x


def clean(classifier, x, y) -> Check:
    return audit(classifier, x, y, eps=0.01, quick=True, checks=["clean_accuracy"])["clean_accuracy"]


@pytest.mark.parametrize(
    ("classes", "right", "labels", "status"),
    [
        (10, 0.06, "balanced", "FAIL"),
        (10, 0.1, "balanced", "FAIL"),
        (10, 0.2, "balanced", "FAIL"),
        (10, 0.35, "balanced", "PASS"),
        (2, 0.5, "balanced", "FAIL"),
        (2, 0.7, "balanced", "PASS"),
        (100, 0.02, "balanced", "FAIL"),
        (100, 0.3, "balanced", "PASS"),
        (2, 0.97, "one in ten", "PASS"),
        (10, 0.1, "one class", "FAIL"),
        (10, 0.97, "one class", "N/A"),
    ],
)
def test_clean_accuracy_is_agreement_beyond_chance(classes, right, labels, status):
    rng, n = np.random.default_rng(0), 128
    y = {
        "balanced": np.arange(n) % classes,
        "one in ten": (np.arange(n) % 10 == 0).astype(int),
        "one class": np.full(n, 1),
    }[labels]
    wrong = rng.permutation(n) >= round(right * n)
    answers = np.where(wrong, (y + rng.integers(1, classes, n)) % classes, y)
    found = clean(*answering(answers, classes), y)
    assert found.status == status
    if labels != "one class":
        assert found.value == pytest.approx(1 - cohen_kappa_score(y, answers), abs=1e-6)


@pytest.mark.parametrize(("found", "status"), [(4, "PASS"), (1, "FAIL")])
def test_few_points_of_a_rare_class_can_show_that_a_model_does_not_guess(found, status):
    """Four of six rare points found, and no other called rare, is no luck; one among four called so is."""
    y, answers = np.zeros(128, dtype=int), np.zeros(128, dtype=int)
    y[:6], answers[:found] = 1, 1
    answers[6 : 6 + (4 - found)] = 1
    assert clean(*answering(answers, 2), y).status == status


def test_the_deviation_of_blind_predictions_is_that_of_all_ways_to_deal_them_out():
    answers, y = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 0, 2, 3])
    accuracies = [(np.array(dealt) == y).mean() for dealt in itertools.permutations(answers)]
    assert deviation_if_blind(answers, y) == pytest.approx(np.std(accuracies), rel=1e-12)


@pytest.mark.parametrize(("n", "status"), [(1, "N/A"), (2, "N/A"), (20, "PASS")])
def test_too_few_points_to_tell_are_no_failure(n, status):
    y = np.arange(n) % 10
    assert clean(*answering(y, 10), y).status == status


def test_one_point_that_is_wrong_fails():
    assert clean(*answering(np.array([3]), 10), np.array([4])).status == "FAIL"


@pytest.mark.parametrize("name", ["untrained", "constant", "classes_in_another_order"])
def test_a_useless_model_is_not_trusted(digits, tiny, name):
    classifier = PLANTED[name].build(digits, tiny.model)
    checks = ["eval_mode", "clean_accuracy"]
    report = audit(classifier, digits.x_test[:60], digits.y_test[:60], eps=0.1, quick=True, checks=checks)
    assert report.verdict == "do not trust: clean_accuracy"


@pytest.mark.parametrize("labels", ["permuted", "shifted", "one class"])
def test_wrong_labels_are_not_trusted(digits, tiny, labels):
    y = digits.y_test[:128]
    wrong = {"permuted": np.random.default_rng(0).permutation(y), "shifted": (y + 1) % 10, "one class": 0 * y}[labels]
    report = audit(tiny, digits.x_test[:128], wrong, eps=0.1, quick=True, checks=["clean_accuracy"])
    assert report.verdict == "do not trust: clean_accuracy"


def test_a_constant_model_on_points_of_its_class_is_not_trusted(digits, tiny):
    classifier = PLANTED["constant"].build(digits, tiny.model)
    assert clean(classifier, digits.x_test[:60], np.full(60, 3)).status == "FAIL"


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_eps_zero_changes_nothing_where_some_images_are_misclassified(digits, plain, norm):
    y = digits.y_test[:40].copy()
    y[:10] = (y[:10] + 1) % 10
    report = audit(plain, digits.x_test[:40], y, eps=0.5, norm=norm, checks=["eps_zero_is_clean", "budget_kept"])
    assert report.settings["clean accuracy"] < 0.8
    assert report.verdict == "no failure detected"


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_images_are_no_failure(digits, plain, n):
    report = report_of(plain, digits, n, checks=["batch_independent", "deterministic"])
    assert report.verdict == "no failure detected"


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


def coupled_in_large_batches(z: torch.Tensor) -> torch.Tensor:
    return z if len(z) < 60 else z + 0.5 * z.mean(0)


@pytest.mark.parametrize(
    ("hidden_fault", "check"),
    [
        (ForwardMode, "no_autograd_in_forward"),
        (lambda model: Back(model, coupled_in_large_batches), "batch_independent"),
    ],
)
def test_faults_that_hide_well_are_found(digits, plain, hidden_fault, check):
    report = report_of(wrap(digits, hidden_fault(plain.model)), digits, 80, checks=[check])
    assert report.verdict == f"do not trust: {check}"


@pytest.mark.parametrize(("low", "status"), [(0.0, "PASS"), (-0.1, "FAIL"), (np.nan, "FAIL")])
def test_images_outside_their_range_are_found(digits, tiny, low, status):
    x = digits.x_test[:16].copy()
    x[0, 0, 0, 0] = low
    report = audit(tiny, x, digits.y_test[:16], eps=0.1, quick=True, checks=["inputs_in_range"])
    assert report["inputs_in_range"].status == status
    assert report["inputs_in_range"].value == (1 / 16 if status == "FAIL" else 0)


def test_probabilities_are_no_logits(digits, tiny):
    classifier = wrap(digits, nn.Sequential(tiny.model, nn.Softmax(dim=1)))
    assert statuses(classifier, digits, ["logits_not_probabilities"]) == {"logits_not_probabilities": "FAIL"}
