"""Sizes of noise per feature, and `describe`, on the device of the run: the CPU's numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegClassifier, TrainingConfig, describe

GENERATOR = torch.Generator().manual_seed(3)
X = torch.rand(40, 4, generator=GENERATOR).numpy()
Y = torch.randint(3, (40,), generator=GENERATOR).numpy()
SIZES = np.array([0.1, 2.0, 0.3, 0.05])
PENALTIES = [SensitivityPenalty(sigma=SIZES), JacobianPenalty(sigma=torch.from_numpy(SIZES))]


def make(device: str, frozen: bool = False) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    model[0].requires_grad_(not frozen)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    return SensRegClassifier(
        model, nn.CrossEntropyLoss(), (4,), 3, optimizer, penalties=PENALTIES, device_type=device, clip_values=(0, 1)
    )


def test_sizes_per_feature_are_those_of_the_cpu() -> None:
    """Signs times their sizes; the divisor of both penalties is one number, and the array is copied once."""
    distances = []
    for device in ("gpu", "cpu"):
        classifier = make(device)
        rows = torch.from_numpy(X).to(classifier.device)
        signs = SensitivityPenalty(sigma=SIZES, noise="rademacher")
        (noisy,), sigma = signs.branches(classifier.model, rows, None, None)
        distances.append((noisy - rows).abs().mean(0).cpu())
        assert isinstance(sigma, float)
        assert signs.sigma.like(rows) is signs.sigma.like(noisy)
        classifier.fit(X, Y, config=TrainingConfig(seed=0), batch_size=10, nb_epochs=1)
        assert all(np.isfinite(value) for value in classifier.history[0].values())
    torch.testing.assert_close(distances[0], torch.from_numpy(SIZES).float(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(distances[1], distances[0], rtol=1e-4, atol=1e-6)


def test_describe_on_the_device() -> None:
    penalties = [*PENALTIES, JacobianPenalty(estimator="exact")]
    ours, theirs = (describe(make(device, frozen=True), X, Y, penalties) for device in ("gpu", "cpu"))
    assert [layer.trains for layer in ours.layers] == [layer.trains for layer in theirs.layers] == [False, True]
    assert abs(ours.base_loss - theirs.base_loss) < 1e-5
    assert abs(ours.penalties[2].value - theirs.penalties[2].value) < 1e-4 * theirs.penalties[2].value
    assert [penalty.has_effect for penalty in ours.penalties] == [True, True, True]
