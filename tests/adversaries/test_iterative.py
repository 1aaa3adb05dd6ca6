"""PGD against closed forms on linear models, and TRADES's divergence against its sum."""

import pytest
import torch
from torch import nn

from art_sensreg.adversaries import PGD, TRADES
from art_sensreg.adversaries.iterative import divergence
from tests.adversaries.helpers import LOSS, draw_batch


def test_two_class_linear_models_have_a_closed_form():
    # The margin of a two-class linear model moves along one direction: the worst case is a corner.
    x, y = draw_batch(classes=2)
    linear = nn.Linear(12, 2)
    sides = (1 - 2 * y.float())[:, None]
    difference = (linear.weight[1] - linear.weight[0]).detach()
    assert torch.allclose(PGD(eps=0.1).perturb(linear, x, y, LOSS), x + 0.1 * difference.sign() * sides, atol=1e-6)
    found = PGD(eps=0.5, eps_step=0.5, norm="l2", max_iter=20).perturb(linear, x, y, LOSS)
    assert torch.allclose(found, x + 0.5 * nn.functional.normalize(difference, dim=0) * sides, atol=1e-4)


def test_random_starts_fill_the_l2_ball():
    start = PGD(eps=0.5, norm="l2").draw_start(torch.zeros(4000, 3), torch.Generator().manual_seed(0))
    radius = start.norm(dim=1)
    assert radius.max() <= 0.5
    assert radius.mean().item() == pytest.approx(0.25, abs=0.01)
    assert start.mean(0).abs().max() < 0.01


def test_the_divergence_is_a_sum_over_classes():
    first, second = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
    p, q = torch.softmax(first, 1), torch.softmax(second, 1)
    assert divergence(first, second).item() == pytest.approx((p * (p / q).log()).sum(1).mean().item(), rel=1e-12)


@pytest.mark.parametrize(("eps", "norm", "size"), [(0.3, "linf", 0.001), (8 / 255, "linf", 0.001), (1.5, "l2", 0.001),
                                                   (76.5, "linf", 0.255), (1000.0, "l2", 1 / 3)])  # fmt: skip
def test_the_start_of_trades_is_not_lost_in_the_rounding_of_a_larger_range(eps, norm, size):
    start = TRADES(eps=eps, norm=norm).draw_start(torch.zeros(20, 100), torch.Generator().manual_seed(0))
    assert float(start.square().mean().sqrt()) == pytest.approx(size, rel=0.05)
