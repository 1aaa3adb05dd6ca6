"""Attacks on the device find what they find on the CPU, and no step of theirs makes the host wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from art.attacks.evasion import AutoProjectedGradientDescent, FastGradientMethod, ProjectedGradientDescentPyTorch
from torch import nn

from art_sensreg import SensRegClassifier
from art_sensreg import attacks as ours
from art_sensreg.attacks.base.norms import Ball
from art_sensreg.objectives import Objective
from art_sensreg.penalties.forward.inner_ascent import Ascent, inner_ascent
from art_sensreg.training import ValidationAttack
from tests.device.counting import transfers, waits

X = torch.rand(6, 1, 6, 6, generator=torch.Generator().manual_seed(3)).numpy()
DEVICE = torch.device("cuda", 0)


def make(device: str, seed: int = 0) -> SensRegClassifier:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4))
    return SensRegClassifier(
        model, nn.CrossEntropyLoss(), (1, 6, 6), 4, clip_values=(0, 1), preprocessing=(0.5, 0.5), device_type=device
    )


ATTACKS: dict[str, Callable[..., Any]] = {
    "linf": lambda c, n: ours.ProjectedAscent(c, eps=0.1, max_iter=n, nb_restarts=2),
    "l2": lambda c, n: ours.ProjectedAscent(c, norm=2, eps=0.5, max_iter=n, loss="margin", schedule="cosine"),
    "l1": lambda c, n: ours.ProjectedAscent(c, norm=1, eps=2.0, max_iter=n, loss="logits_ratio"),
    "far starts": lambda c, n: ours.FarStartsAttack(c, eps=0.1, max_iter=n, nb_restarts=3),
    "scaled": lambda c, n: ours.ScaledLogitsAttack(c, eps=0.1, max_iter=n),
    "targeted": lambda c, n: ours.TargetedMarginAttack(c, eps=0.1, max_iter=n),
    "hidden": lambda c, n: ours.HiddenDistanceAttack(c, eps=0.1, max_iter=n, nb_restarts=2),
    "kitchen sink": lambda c, n: ours.KitchenSinkAttack(c, eps=0.1, max_iter=n, nb_restarts=4),
    "transfer": lambda c, n: ours.TransferAttack(
        c, [make("gpu" if c.device == DEVICE else "cpu", 1)], eps=0.1, max_iter=n
    ),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_no_step_waits(attack):
    def counted(steps: int) -> Any:
        with transfers() as moved:
            attack(make("gpu"), steps).generate(X, np.arange(6) % 4)
        return waits(moved)

    # Images that are broken in a restart are not attacked in the next: as many restarts are needed in both.
    more = counted(6) - counted(5)
    assert not more, more


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_the_same_images_as_on_the_cpu(attack):
    found = [attack(make(device), 6).generate(X, np.arange(6) % 4) for device in ("gpu", "cpu")]
    np.testing.assert_allclose(*found, rtol=0, atol=1e-4)


THEIRS: dict[str, Callable[..., Any]] = {
    "fgsm": lambda c: FastGradientMethod(c, eps=0.1),
    "pgd": lambda c: ProjectedGradientDescentPyTorch(c, eps=0.1, eps_step=0.02, max_iter=5, verbose=False),
    "apgd": lambda c: AutoProjectedGradientDescent(
        c, eps=0.1, eps_step=0.02, max_iter=5, nb_random_init=1, loss_type="cross_entropy", verbose=False
    ),
    "official": lambda c: ours.OfficialAutoAttack(c, eps=0.05, seed=0, **OFFICIAL),
}
OFFICIAL = {"nb_iter": 5, "nb_queries": 20, "nb_restarts": 1, "verbose": False}


@pytest.mark.parametrize("attack", THEIRS.values(), ids=THEIRS)
def test_attacks_of_others(attack):
    robust = []
    for device in ("gpu", "cpu"):
        np.random.seed(0)
        torch.manual_seed(0)
        classifier = make(device)
        y = classifier.predict(X).argmax(1)
        found = attack(classifier).generate(X, y)
        assert np.abs(found - X).max() <= 0.1 + 1e-6
        robust.append((classifier.predict(found).argmax(1) == y).sum())
    assert robust[0] == robust[1]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_steps_inside_of_training_and_validation(norm):
    model = make("gpu").model
    x = torch.from_numpy(X).to(DEVICE)
    y = torch.from_numpy(np.arange(6) % 4).to(DEVICE)
    with transfers() as moved:
        ascent = Ascent(eps=0.1, eps_step=0.03, max_iter=3, norm=norm)
        inner_ascent(model, lambda z: nn.functional.cross_entropy(z, y), x, x + 0.01, ascent)
    assert not waits(moved)
    with transfers() as moved:
        ValidationAttack(eps=0.1, norm=norm, max_iter=7)(model, Objective(), x, y, torch.Generator())
    assert sum(waits(moved).values()) <= 1  # the start


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_ball(norm):
    x = torch.from_numpy(X).to(DEVICE)
    low, high = torch.zeros((), device=DEVICE), torch.ones((), device=DEVICE)
    for ball in (Ball(norm, 0.5, 0.0, 1.0), Ball(norm, 0.5, low, high)):
        with transfers() as moved:
            ball.project(x, x + ball.steepest(ball.inward(x, x - 0.5)))
        assert not waits(moved)
