"""Attack health: what is said of the attack itself."""

from __future__ import annotations

import copy

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg import RandomizedClassifier, audit
from tests.auditing.models.planted import PLANTED
from tests.auditing.models.planted_base import wrap
from tests.auditing.reports import report_of, statuses


def test_a_broken_attack_leaves_nothing_to_complete(digits, tiny):
    assert statuses(tiny, digits, ["optimisation_complete"], eps=0.9) == {"optimisation_complete": "N/A"}


def test_zero_gradients_do_not_count_as_a_complete_attack(digits, tiny):
    classifier = PLANTED["detached_input"].build(digits, tiny.model)
    checks = ["gradients_not_zero", "optimisation_complete", "gradients_hold_at_step_size"]
    found = statuses(classifier, digits, [*checks, "loss_gradient_is_the_models"])
    assert found["gradients_not_zero"] == "FAIL"
    assert "PASS" not in found.values()


class NoisyScore(nn.Module):
    """The first pixel against one half, in a noise that turns an image in the middle of its class once in forty."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = 4 * (x[:, 0, 0, :1] - 0.5) + 0.5 * torch.randn(len(x), 1)
        return torch.cat([-z, z], dim=1)


def test_an_unlucky_draw_of_a_random_model_is_no_silent_success():
    x = np.full((100, 1, 2, 2), 0.5, np.float32)
    y = np.arange(100) % 2
    x[:, 0, 0, 0] += 0.25 * (2 * y - 1)
    settings = {"clip_values": (0, 1), "device_type": "cpu", "samples": 1}
    classifier = RandomizedClassifier(NoisyScore(), nn.CrossEntropyLoss(), (1, 2, 2), 2, **settings)
    report = audit(classifier, x, y, eps=0.01, quick=True, checks=["no_silent_success"])
    assert report.verdict == "no failure detected"


def test_a_float64_model_of_a_plain_classifier_is_attacked(digits, plain):
    classifier = wrap(digits, copy.deepcopy(plain.model).double())
    checks = ["eval_mode", "deterministic", "loss_gradient_is_the_models", "white_box_beats_black_box", "budget_kept"]
    assert report_of(classifier, digits, checks=checks).verdict == "no failure detected"


def test_a_classifier_without_clip_values_is_attacked(digits, plain):
    classifier = wrap(digits, plain.model, clip_values=None)
    checks = ["inputs_in_range", "white_box_beats_black_box", "unconstrained_attack_succeeds", "budget_kept"]
    assert report_of(classifier, digits, checks=checks).verdict == "no failure detected"


def test_random_search_breaks_what_hides_its_gradient():
    """One corner of the ball in sixteen is misclassified, and the gradient is detached."""

    class Detached(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            score = (x.detach().flatten(1).sum(1) - 2.0) + 0.0 * x.flatten(1).sum(1)
            return torch.stack([-score, score], 1)

    settings = {"clip_values": (0.0, 1.0), "device_type": "cpu"}
    classifier = PyTorchClassifier(Detached(), nn.CrossEntropyLoss(), (1, 2, 2), 2, **settings)
    x = np.full((40, 1, 2, 2), 0.5, np.float32)
    x[::2] += 0.25 / 4
    x[1::2] -= 0.25 / 4
    y = np.arange(40) % 2 == 0
    found = audit(classifier, x, y.astype(int), eps=0.1, quick=True, checks=["random_search_finds_nothing"])
    assert found.verdict == "do not trust: random_search_finds_nothing"
