"""When a check does not apply, it is not run and says why."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from art_sensreg import RandomizedClassifier, SensitivityPenalty, SensRegClassifier, audit
from art_sensreg.auditing.checks.exemptions import is_same_model
from tests.auditing.models.honest import honest_model
from tests.auditing.models.planted import PLANTED
from tests.auditing.models.planted_base import wrap
from tests.auditing.reports import context_of, report_of, statuses

TWIN = ["transfer_from_twin", "twin_falls"]


class NoisyInput(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x + 0.02 * torch.randn_like(x))


def test_checks_of_random_models_do_not_apply_to_a_deterministic_one(digits, tiny):
    found = statuses(tiny, digits, ["deterministic", "eot_samples_suffice", "repeated_scoring_agrees"])
    assert found == {"deterministic": "PASS", "eot_samples_suffice": "N/A", "repeated_scoring_agrees": "N/A"}


def test_checks_of_deterministic_models_do_not_apply_to_a_random_one(digits, tiny):
    classifier = wrap(digits, NoisyInput(tiny.model), RandomizedClassifier, samples=4)
    checks = ["deterministic", "batch_independent", "gradients_match_differences", "loss_gradient_is_the_models"]
    assert set(statuses(classifier, digits, checks).values()) == {"N/A"}
    calm = wrap(digits, tiny.model, RandomizedClassifier, samples=4)
    assert statuses(calm, digits, checks[:1]) == {"deterministic": "PASS"}


def test_a_twin_that_is_the_model_tells_nothing(digits, tiny):
    same = [tiny, wrap(digits, tiny.model), wrap(digits, copy.deepcopy(tiny.model), SensRegClassifier)]
    for twin in same:
        assert set(statuses(tiny, digits, TWIN, twin=twin).values()) == {"N/A"}
        surrogate = statuses(tiny, digits, ["transfer_from_surrogates"], surrogates=[twin])
        assert surrogate == {"transfer_from_surrogates": "N/A"}
    note = report_of(tiny, digits, 16, checks=TWIN, twin=tiny)["twin_falls"].note
    assert note.startswith("the twin is the model itself")


def test_a_twin_with_the_same_weights_and_other_gradients_is_no_copy(digits, tiny):
    """The masked model answers bit for bit as its twin does: only the gradients differ."""
    for name in ("sign_flip", "detached_input"):
        masked = PLANTED[name].build(digits, tiny.model)
        assert "N/A" not in statuses(masked, digits, TWIN, twin=tiny).values()
    other = honest_model("linear", digits)[0]
    assert "N/A" not in statuses(tiny, digits, TWIN, twin=other).values()


def test_a_copy_is_the_same_model_until_its_weights_move(digits, tiny):
    other = wrap(digits, copy.deepcopy(tiny.model))
    context = context_of(tiny, digits.x_test[:16], digits.y_test[:16])
    assert is_same_model(context, other)
    with torch.no_grad():
        next(other.model.parameters()).add_(1e-3)
    assert not is_same_model(context, other)


def test_a_model_without_hidden_layers_has_no_hidden_distances(digits):
    linear = honest_model("linear", digits)[0]
    assert statuses(linear, digits, ["hidden_distances_gain_little"]) == {"hidden_distances_gain_little": "N/A"}


def test_a_model_that_is_never_correct_leaves_nothing_to_attack(digits, tiny):
    y = (tiny.predict(digits.x_test[:16]).argmax(axis=1) + 1) % 10
    report = audit(tiny, digits.x_test[:16], y, eps=0.1, quick=True, penalties=[SensitivityPenalty()])
    found = {check.name: check.status for check in report.checks}
    assert found["clean_accuracy"] == "FAIL"
    measured = {name for name, status in found.items() if status == "PASS"}
    assert measured <= {
        "eval_mode", "inputs_in_range", "logits_not_probabilities", "deterministic", "batch_independent",
        "no_autograd_in_forward", "eps_zero_is_clean", "known_weak_model_falls",
    }  # fmt: skip


@pytest.mark.parametrize("check", ["transfer_from_twin", "twin_falls", "transfer_from_surrogates"])
def test_what_is_not_given_is_skipped(digits, tiny, check):
    assert statuses(tiny, digits, [check]) == {check: "SKIP"}
