"""GradNorm against closed forms, central differences, and what the worst perturbation does to the loss."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from art_sensreg.penalties import GradientNormPenalty
from tests.penalties.helpers import batch, built, by_weights


def test_a_linear_model_has_a_closed_form():
    x, y = batch()
    model, x = nn.Linear(8, 3).double(), x.double()
    rows = (F.softmax(model(x), 1) - F.one_hot(y, 3)) @ model.weight
    expected = {"l1": rows.abs().sum(1), "l2": rows.norm(dim=1), "squared_l2": rows.norm(dim=1) ** 2}
    for norm, sizes in expected.items():
        assert GradientNormPenalty(norm=norm)(model, x, y).item() == pytest.approx(sizes.mean().item(), rel=1e-12)


def test_it_is_the_slope_of_the_worst_case_loss():
    x, y = batch()
    model, x = built(lambda: nn.Sequential(nn.Linear(8, 6), nn.SiLU(), nn.Linear(6, 3))).double(), x.double()
    step = 1e-6
    for norm, direction in (("l1", torch.sign), ("l2", lambda rows: F.normalize(rows, dim=1))):
        leaf = x.clone().requires_grad_()
        F.cross_entropy(model(leaf), y, reduction="sum").backward()
        rise = F.cross_entropy(model(x + step * direction(leaf.grad)), y) - F.cross_entropy(model(x), y)
        assert GradientNormPenalty(norm=norm)(model, x, y).item() == pytest.approx(rise.item() / step, rel=1e-4)


@pytest.mark.parametrize("norm", ["l1", "l2", "squared_l2"])
def test_its_gradient_in_the_weights(norm):
    x, y = batch(5)
    net = built(lambda: nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.SiLU(), nn.Linear(4, 3))).double()
    value, leaves = by_weights(net, lambda model: GradientNormPenalty(norm=norm)(model.train(), x.double(), y))
    assert torch.autograd.gradcheck(value, leaves, fast_mode=True)


def test_gradients_of_zero_have_a_finite_derivative():
    x, y = batch()
    model = nn.Sequential(nn.Linear(8, 4), nn.SiLU(), nn.Linear(4, 3))
    nn.init.zeros_(model[2].weight)
    GradientNormPenalty(norm="l2")(model, x, y).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
