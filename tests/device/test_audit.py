"""The audit on the device says what it says on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from art_sensreg import SensRegClassifier, audit

# Those of the model itself, and of its gradients: the attacks of the others are in test_attacks.
CHECKS = (
    *("eval_mode", "logits_not_probabilities", "deterministic", "batch_independent", "eps_zero_is_clean"),
    *("gradients_not_zero", "gradients_finite", "gradients_match_differences", "loss_gradient_is_the_models"),
    *("predictions_stable", "iterative_beats_one_step"),
)
X = torch.rand(6, 4, generator=torch.Generator().manual_seed(3))


def test_the_audit_runs_as_on_the_cpu():
    def report(device: str) -> Any:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 4))
        model[2].weight.data.mul_(4)
        classifier = SensRegClassifier(model, nn.CrossEntropyLoss(), (4,), 4, clip_values=(0, 1), device_type=device)
        y = classifier.predict(X.numpy()).argmax(1)
        return audit(classifier, X.numpy(), y, eps=0.1, seed=0, quick=True, checks=CHECKS)

    ours, theirs = report("gpu"), report("cpu")
    assert ours.verdict == theirs.verdict
    for one, other in zip(ours.checks, theirs.checks, strict=True):
        assert (one.name, one.status) == (other.name, other.status)
        assert one.value == pytest.approx(other.value, abs=0.05, nan_ok=True), one.name
