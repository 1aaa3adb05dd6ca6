"""Attacks of three libraries agree about the same network, at the same steps."""

import functools

import numpy as np
import pytest
import torch
from art.attacks.evasion import AutoProjectedGradientDescent, ProjectedGradientDescent
from torch import nn

from art_sensreg import SensRegClassifier
from art_sensreg.attacks import ProjectedAscent
from art_sensreg.attacks.autoattack.attack import OfficialAutoAttack
from tests.support.fixed_weights import fixed

N = 200
ROUNDING = 1e-9  # of shares of 200 images
STEPS = 40
ORDER = {"linf": np.inf, "l2": 2}
CASES = [("linf", 0.1), ("linf", 0.15), ("l2", 0.5), ("l2", 0.8)]


@pytest.fixture(scope="module")
def victim():
    settings = {"clip_values": (0.0, 1.0), "device_type": "cpu"}
    return SensRegClassifier(fixed("cnn-smoothed"), nn.CrossEntropyLoss(), (1, 8, 8), 10, **settings)


@pytest.fixture(scope="module")
def robust(victim, digits):
    """Robust accuracy in points under an attack, of images that stay within its budget."""
    x, y = digits.x_test[:N], digits.y_test[:N]

    def measure(x_adv, norm, eps):
        size = np.linalg.norm((x_adv.astype(np.float64) - x).reshape(N, -1), ord=ORDER[norm], axis=1)
        assert size.max() <= eps + 1e-6
        assert x_adv.min() >= 0
        assert x_adv.max() <= 1
        return 100 * float((victim.predict(x_adv).argmax(axis=1) == y).mean())

    return measure


def _art(victim, x, y, norm, eps, restarts):
    settings = {"max_iter": STEPS, "num_random_init": restarts, "batch_size": N, "verbose": False}
    step = 2.5 * eps / STEPS
    return ProjectedGradientDescent(victim, norm=ORDER[norm], eps=eps, eps_step=step, **settings).generate(x, y)


def _foolbox(victim, x, y, norm, eps, restarts):
    foolbox = pytest.importorskip("foolbox")
    kind = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm]
    attack = kind(abs_stepsize=2.5 * eps / STEPS, steps=STEPS, random_start=restarts > 0).repeat(max(restarts, 1))
    model = foolbox.PyTorchModel(victim.model.eval(), bounds=(0.0, 1.0), device="cpu")
    return attack(model, torch.from_numpy(x), torch.from_numpy(y), epsilons=eps)[1].numpy()


class FromTheImage(ProjectedAscent):
    def get_start(self, victim):
        return victim.x


def _ours(victim, x, y, norm, eps, restarts):
    kind = ProjectedAscent if restarts else FromTheImage
    return kind(victim, norm=norm, eps=eps, max_iter=STEPS, nb_restarts=max(restarts, 1)).generate(x, y)


@pytest.fixture(scope="module")
def measured(victim, digits, robust):
    @functools.cache
    def get(attack, norm, eps, restarts):
        torch.manual_seed(0)
        np.random.seed(0)
        return robust(attack(victim, digits.x_test[:N], digits.y_test[:N], norm, eps, restarts), norm, eps)

    return get


def test_the_comparison_can_fail(measured):
    """Some images are broken and some are not, and different budgets give different results."""
    values = [measured(_art, norm, eps, 0) for norm, eps in CASES]
    assert all(10 < value < 90 for value in values)
    assert values[0] > values[1] + 5
    assert values[2] > values[3] + 5


@pytest.mark.parametrize("other", [_foolbox, _ours])
@pytest.mark.parametrize(("norm", "eps"), CASES)
def test_projected_gradient_descent_from_the_image(measured, other, norm, eps):
    assert abs(measured(other, norm, eps, 0) - measured(_art, norm, eps, 0)) <= 1 + ROUNDING


@pytest.mark.parametrize("other", [_foolbox, _ours])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.15), ("l2", 0.8)])
def test_projected_gradient_descent_from_random_starts(measured, other, norm, eps):
    # The three draw different starts: two seeds of the same attack are up to two points apart.
    assert abs(measured(other, norm, eps, 2) - measured(_art, norm, eps, 2)) <= 2 + ROUNDING


@pytest.mark.parametrize(("norm", "eps"), CASES)
def test_arts_auto_pgd_and_the_original_one(victim, digits, robust, norm, eps):
    pytest.importorskip("pyautoattack")
    x, y = digits.x_test[:N], digits.y_test[:N]
    np.random.seed(0)
    settings = {"max_iter": STEPS, "nb_random_init": 1, "batch_size": N, "loss_type": "cross_entropy"}
    art = AutoProjectedGradientDescent(victim, norm=ORDER[norm], eps=eps, eps_step=2 * eps, verbose=False, **settings)
    theirs = OfficialAutoAttack(victim, norm=norm, eps=eps, attacks=("apgd-ce",), nb_iter=STEPS, nb_restarts=1)
    # One start each, so that two points are left to chance.
    assert abs(robust(art.generate(x, y), norm, eps) - robust(theirs.generate(x, y), norm, eps)) <= 2 + ROUNDING
