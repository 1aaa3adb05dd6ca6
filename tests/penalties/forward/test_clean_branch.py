"""BatchNorm and dropout in a stacked pass treat the clean branch as if it were alone."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

from art_sensreg import JacobianPenalty
from art_sensreg.objectives import Objective
from art_sensreg.penalties.forward.branches import forward_branches, preserve_statistics
from art_sensreg.penalties.forward.row_coupling import survey
from tests.penalties.branch_models import Body, ViT
from tests.penalties.helpers import batch, built, by_hand, generator


def test_penalties_of_the_users_own_may_differentiate_in_any_way():
    """BatchNorm stays made of operations that forward mode and `torch.func` know."""
    norm = nn.BatchNorm1d(4, track_running_stats=False)  # else torch.func refuses its counter
    net, x = nn.Sequential(nn.Linear(3, 4), norm, nn.Linear(4, 2)).train(), torch.rand(6, 3)
    direction = torch.randn_like(x)
    objective = Objective([JacobianPenalty(sigma=0.1)])
    objective.prepare(net, x)
    with preserve_statistics(net, len(x), objective.plan):
        wanted = torch.autograd.functional.jvp(net, x, direction)[1]
        with forward_ad.dual_level():
            tangent = forward_ad.unpack_dual(net(forward_ad.make_dual(x, direction))).tangent
        by_func = torch.func.jvp(net, (x,), (direction,))[1]
    assert torch.allclose(tangent, wanted, atol=1e-5)
    assert torch.allclose(by_func, wanted, atol=1e-5)


@pytest.mark.parametrize("dropout", [nn.Dropout, nn.AlphaDropout])
def test_dropout_in_place(dropout):
    """As MNASNet, EfficientNet and MobileNetV3 of torchvision have it."""
    net, (x, y) = built(lambda: Body(dropout(0.5, inplace=True))), batch()
    objective = Objective([JacobianPenalty(sigma=0.1)])
    objective.prepare(net, x)
    assert objective.plan.stacked
    wanted = by_hand(net, x, 0.1)
    terms, _ = objective(net, x, y, generator())
    assert torch.isclose(terms["jacobian"], wanted, rtol=1e-3)
    terms["loss"].backward()


@pytest.mark.parametrize("rows", [16, 40])
def test_randomness_that_begins_later(rows):
    """As where the rate of stochastic depth rises over the epochs, behind layers that have state."""
    net, (x, y) = nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(0.2), built(lambda: ViT(0.0))).train(), batch(rows)
    objective = Objective([JacobianPenalty(sigma=0.1)])
    objective.prepare(net, x)
    assert objective.plan.stacked
    for block in net[2].blocks:
        block.path.p = 0.3
    plain = copy.deepcopy(net)
    torch.manual_seed(7)
    plain(x)
    after = torch.rand(1)
    fixed = copy.deepcopy(net)
    fixed[0] = nn.BatchNorm1d(8, momentum=1.0)
    fixed[0](x)
    fixed[0].running_var.mul_((rows - 1) / rows)
    fixed[0].eval()
    torch.manual_seed(7)
    wanted = by_hand(fixed, x, 0.1)
    torch.manual_seed(7)
    with pytest.warns(UserWarning, match="because it draws random numbers"):
        terms, _ = objective(net, x, y, generator())
    assert torch.isclose(terms["jacobian"], wanted, rtol=1e-3)
    assert torch.equal(torch.rand(1), after)
    assert all(torch.allclose(a, b) for a, b in zip(net.buffers(), plain.buffers(), strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective(net, x, y, generator())


@pytest.mark.parametrize("rows", [16, 10])
def test_a_shared_mask_is_that_of_the_clean_examples_alone_in_any_layout(rows):
    """Masks are drawn in the order in which a tensor lies in memory."""
    net = built(lambda: Body(Transposed()))
    assert survey(net, batch()[0]).stacked
    x, _ = batch()
    torch.manual_seed(3)
    wanted = copy.deepcopy(net)(x)
    torch.manual_seed(3)
    clean, noisy = forward_branches(net, [x, x[:rows]]).logits
    assert torch.allclose(clean, wanted, atol=1e-6)
    assert torch.allclose(noisy, wanted[:rows], atol=1e-6)


class Transposed(nn.Module):
    def forward(self, x):
        steps_first = x.view(len(x), 2, 3).transpose(0, 1).contiguous()
        return nn.functional.dropout(steps_first.transpose(0, 1), 0.5, self.training).reshape(len(x), 6)


def test_a_pass_that_is_broken_off_counts_for_nothing():
    class Later(Body):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(()))
            self.steps, self.rate = 0, 0.0

        def inner(self, x):
            self.count += 1
            self.steps += 1
            return x * (torch.rand(len(x), 1) >= self.rate) if self.rate else x

    net, (x, y) = built(Later), batch()
    objective = Objective([JacobianPenalty(sigma=0.1)])
    objective.prepare(net, x)
    net.rate = 0.5
    with pytest.warns(UserWarning, match="because it draws random numbers"):
        objective(net, x, y, generator())
    assert (net.steps, net.count.item()) == (1, 1)
