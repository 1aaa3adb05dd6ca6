"""What an audit says before any attack: whether the model is better than guessing, and which checks apply to it."""

from __future__ import annotations

import copy
import itertools
import json

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from sklearn.metrics import cohen_kappa_score
from torch import nn

from art_sensreg import RandomizedClassifier, SensitivityPenalty, SensRegClassifier, audit
from art_sensreg.auditing import CHECKS, AuditReport, Check
from art_sensreg.auditing.checks.preconditions import _deviation_if_blind
from art_sensreg.datasets import Dataset
from tests.auditing.models.honest import honest_model
from tests.auditing.models.planted import PLANTED
from tests.auditing.models.planted_base import wrap


@pytest.fixture(scope="module")
def plain(digits: Dataset) -> PyTorchClassifier:
    return honest_model("tiny_mlp", digits)[0]  # quickly attacked


class Answers(nn.Module):
    """Answers the class that the first pixel says."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("levels", torch.arange(classes) / classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -50 * (x[:, 0, 0, :1] - self.levels).abs()


def told(answers: np.ndarray, classes: int) -> tuple[PyTorchClassifier, np.ndarray]:
    """A classifier and images that it answers like this."""
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
    found = clean(*told(answers, classes), y)
    assert found.status == status
    if labels != "one class":
        assert found.value == pytest.approx(1 - cohen_kappa_score(y, answers), abs=1e-6)


@pytest.mark.parametrize(("found", "status"), [(4, "PASS"), (1, "FAIL")])
def test_few_points_of_a_rare_class_are_told_from_guessing(found, status):
    """Four of six rare points found, and no other called rare, is no luck; one among four called so is."""
    y, answers = np.zeros(128, dtype=int), np.zeros(128, dtype=int)
    y[:6], answers[:found] = 1, 1
    answers[6 : 6 + (4 - found)] = 1
    assert clean(*told(answers, 2), y).status == status


def test_the_spread_of_blind_answers_is_that_of_all_ways_to_deal_them_out():
    answers, y = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 0, 2, 3])
    accuracies = [(np.array(dealt) == y).mean() for dealt in itertools.permutations(answers)]
    assert _deviation_if_blind(answers, y) == pytest.approx(np.std(accuracies), rel=1e-12)


@pytest.mark.parametrize(("n", "status"), [(1, "N/A"), (2, "N/A"), (20, "PASS")])
def test_few_points_that_cannot_tell_are_no_failure(n, status):
    y = np.arange(n) % 10
    assert clean(*told(y, 10), y).status == status


def test_one_point_that_is_wrong_fails():
    assert clean(*told(np.array([3]), 10), np.array([4])).status == "FAIL"


@pytest.mark.parametrize("name", ["untrained", "constant", "classes_in_another_order"])
def test_a_useless_model_is_not_trusted(digits, plain, name):
    classifier = PLANTED[name].build(digits, plain.model)
    checks = ["eval_mode", "clean_accuracy"]
    report = audit(classifier, digits.x_test[:60], digits.y_test[:60], eps=0.1, quick=True, checks=checks)
    assert report.verdict == "do not trust: clean_accuracy"


@pytest.mark.parametrize("labels", ["permuted", "shifted", "one class"])
def test_wrong_labels_are_not_trusted(digits, plain, labels):
    y = digits.y_test[:128]
    wrong = {"permuted": np.random.default_rng(0).permutation(y), "shifted": (y + 1) % 10, "one class": 0 * y}[labels]
    report = audit(plain, digits.x_test[:128], wrong, eps=0.1, quick=True, checks=["clean_accuracy"])
    assert report.verdict == "do not trust: clean_accuracy"


def test_a_constant_model_on_points_of_its_class_is_not_trusted(digits, plain):
    classifier = PLANTED["constant"].build(digits, plain.model)
    assert clean(classifier, digits.x_test[:60], np.full(60, 3)).status == "FAIL"


def statuses(digits, classifier, checks, n=16, **kwargs) -> dict[str, str]:
    x, y = digits.x_test[:n], digits.y_test[:n]
    report = audit(classifier, x, y, **{"eps": 0.1, "quick": True, "checks": checks, **kwargs})
    return {check.name: check.status for check in report.checks}


def test_checks_of_random_models_do_not_apply_to_a_deterministic_one(digits, plain):
    found = statuses(digits, plain, ["deterministic", "eot_samples_suffice", "repeated_scoring_agrees"])
    assert found == {"deterministic": "PASS", "eot_samples_suffice": "N/A", "repeated_scoring_agrees": "N/A"}


def test_checks_of_deterministic_models_do_not_apply_to_a_random_one(digits, plain):
    class Noisy(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.model(x + 0.02 * torch.randn_like(x))

    classifier = wrap(digits, Noisy(plain.model), RandomizedClassifier, samples=4)
    checks = ["deterministic", "batch_independent", "gradients_match_differences", "loss_gradient_is_the_models"]
    assert set(statuses(digits, classifier, checks).values()) == {"N/A"}
    assert statuses(digits, wrap(digits, plain.model, RandomizedClassifier, samples=4), checks[:1]) == {
        "deterministic": "PASS"
    }


TWIN = ["transfer_from_twin", "twin_falls"]


def test_a_twin_that_is_the_model_tells_nothing(digits, plain):
    same = [plain, wrap(digits, plain.model), wrap(digits, copy.deepcopy(plain.model), SensRegClassifier)]
    for twin in same:
        assert set(statuses(digits, plain, TWIN, twin=twin).values()) == {"N/A"}
        surrogate = statuses(digits, plain, ["transfer_from_surrogates"], surrogates=[twin])
        assert surrogate == {"transfer_from_surrogates": "N/A"}
    x, y = digits.x_test[:16], digits.y_test[:16]
    note = audit(plain, x, y, eps=0.1, quick=True, checks=TWIN, twin=plain)["twin_falls"].note
    assert note.startswith("the twin is the model itself")


def test_a_twin_with_the_same_weights_and_other_gradients_is_no_copy(digits, plain):
    """The masked model answers bit for bit as its twin does: what tells them apart is the gradient."""
    for name in ("sign_flip", "detached_input"):
        masked = PLANTED[name].build(digits, plain.model)
        assert "N/A" not in statuses(digits, masked, TWIN, twin=plain).values()
    other = honest_model("linear", digits)[0]
    assert "N/A" not in statuses(digits, plain, TWIN, twin=other).values()


def test_a_model_without_hidden_layers_has_no_hidden_distances(digits):
    linear = honest_model("linear", digits)[0]
    assert statuses(digits, linear, ["hidden_distances_gain_little"]) == {"hidden_distances_gain_little": "N/A"}


def test_a_model_that_is_never_right_has_nothing_to_attack(digits, plain):
    y = (plain.predict(digits.x_test[:16]).argmax(axis=1) + 1) % 10
    report = audit(plain, digits.x_test[:16], y, eps=0.1, quick=True, penalties=[SensitivityPenalty()])
    found = {check.name: check.status for check in report.checks}
    assert found["clean_accuracy"] == "FAIL"
    measured = {name for name, status in found.items() if status == "PASS"}
    assert measured <= {
        "eval_mode", "inputs_in_range", "logits_not_probabilities", "deterministic", "batch_independent",
        "no_autograd_in_forward", "eps_zero_is_clean", "known_weak_model_falls",
    }  # fmt: skip


def test_a_broken_attack_leaves_nothing_to_complete(digits, plain):
    assert statuses(digits, plain, ["optimisation_complete"], eps=0.9) == {"optimisation_complete": "N/A"}


def test_zero_gradients_do_not_count_as_a_complete_attack(digits, plain):
    classifier = PLANTED["detached_input"].build(digits, plain.model)
    checks = ["gradients_not_zero", "optimisation_complete", "gradients_hold_at_step_size"]
    found = statuses(digits, classifier, [*checks, "loss_gradient_is_the_models"])
    assert found["gradients_not_zero"] == "FAIL"
    assert "PASS" not in found.values()


def test_what_does_not_apply_stands_in_every_form_of_the_report():
    report = AuditReport(checks=(Check(name="eot_samples_suffice", status="N/A", note="the model is deterministic."),))
    assert report.verdict == "no failure detected"
    line = "eot_samples_suffice: N/A: the model is deterministic."
    assert line in str(report)
    assert line in report.as_markdown()
    assert AuditReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"eps": 8}, ValueError, r"`eps` is 8; expected at most 1, the largest linf .*in \[0, 1\]: 8/255\?"),
        ({"eps": "8"}, ValueError, r"8/255\?"),
        ({"eps": 8.1, "norm": "l2"}, ValueError, "expected at most 8, the largest l2 distance"),
        ({"eps": 65, "norm": 1}, ValueError, "expected at most 64, the largest l1 distance"),
        ({"eps": 1e308}, ValueError, "`eps` is 1e"),
        ({"eps": 10**400}, ValueError, "`eps` "),
        ({"eps": "nan"}, ValueError, "`eps` is nan; expected a finite number above 0"),
        ({"eps": "-8/255"}, TypeError, "`eps` is '-8/255'; expected a number above 0, or a fraction"),
        ({"eps": "8/0"}, TypeError, "`eps` is '8/0'"),
        ({"eps": "1/2/3"}, TypeError, "`eps` is '1/2/3'"),
    ],
)
def test_sizes_in_other_units_are_refused(digits, plain, given, error, words):
    with pytest.raises(error, match=words):
        audit(plain, digits.x_test[:4], digits.y_test[:4], checks=["eval_mode"], **given)


def test_sizes_as_fractions(digits, plain):
    report = audit(plain, digits.x_test[:4], digits.y_test[:4], eps="8/255", checks=["eval_mode"])
    assert report.settings["eps"] == 8 / 255


def test_the_range_of_each_channel_counts():
    low, high = np.zeros((1, 2, 2), np.float32), np.full((1, 2, 2), 255, np.float32)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    loss = nn.CrossEntropyLoss()
    classifier = SensRegClassifier(model, loss, (1, 2, 2), 2, clip_values=(low, high), device_type="cpu")
    x, y = np.zeros((2, 1, 2, 2), np.float32), np.array([0, 1])
    assert audit(classifier, x, y, eps=8, checks=["eval_mode"]).settings["eps"] == 8
    with pytest.raises(ValueError, match="expected at most 255"):
        audit(classifier, x, y, eps=256, checks=["eval_mode"])


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
        flipped = wrap_flipped(model)
        (found,) = audit(flipped, x, y, eps=0.1, quick=True, checks=["gradients_match_differences"]).checks
        assert found.status == "FAIL"
    assert max(errors) < 0.05


def wrap_flipped(model: nn.Module) -> SensRegClassifier:
    class Flipped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.model(2 * x.detach() - x)

    return SensRegClassifier(Flipped(), nn.CrossEntropyLoss(), (1, 8, 8), 4, clip_values=(0, 1), device_type="cpu")


def test_every_check_can_be_asked_for_its_exemptions():
    exempt = {name for name, spec in CHECKS.items() if spec.exemptions}
    assert {"eot_samples_suffice", "repeated_scoring_agrees", "transfer_from_twin", "twin_falls"} <= exempt


class Noisy(nn.Module):
    """The first pixel against one half, in a noise that turns an image in the middle of its class once in forty."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = 4 * (x[:, 0, 0, :1] - 0.5) + 0.5 * torch.randn(len(x), 1)
        return torch.cat([-z, z], dim=1)


def test_an_unlucky_draw_of_a_random_model_is_no_silent_success():
    x = np.full((100, 1, 2, 2), 0.5, np.float32)
    y = np.arange(100) % 2
    x[:, 0, 0, 0] += 0.25 * (2 * y - 1)
    settings = {"clip_values": (0, 1), "device_type": "cpu", "samples": 1}
    classifier = RandomizedClassifier(Noisy(), nn.CrossEntropyLoss(), (1, 2, 2), 2, **settings)
    report = audit(classifier, x, y, eps=0.01, quick=True, checks=["no_silent_success"])
    assert report.verdict == "no failure detected"
