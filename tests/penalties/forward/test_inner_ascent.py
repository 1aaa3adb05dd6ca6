"""Projected gradient steps, against losses whose maximum is known."""

import pytest
import torch
from torch import nn

from art_sensreg.penalties.forward.inner_ascent import Ascent, evaluated, inner_ascent, inside_ball


def test_of_a_linear_loss_the_farthest_point_of_the_ball_is_found():
    torch.manual_seed(0)
    x, w = torch.rand(5, 4), torch.randn(4)
    corner = inner_ascent(nn.Identity(), lambda z: (z @ w).sum(), x, x, Ascent(eps=0.3, eps_step=0.1, max_iter=3))
    assert torch.allclose(corner, x + 0.3 * w.sign(), atol=1e-6)
    ascent = Ascent(eps=0.3, eps_step=0.1, max_iter=4, norm="l2")
    farthest = inner_ascent(nn.Identity(), lambda z: (z @ w).sum(), x, x, ascent)
    assert torch.allclose(farthest, x + 0.3 * w / w.norm(), atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_ball_and_range_are_kept(norm):
    x = torch.rand(20, 3, 2)
    bounds = torch.zeros(()), torch.ones(())
    moved = inside_ball(x, x + torch.randn_like(x), 0.2, norm, bounds)
    distance = (moved - x).flatten(1)
    assert (distance.abs().amax(1) if norm == "linf" else distance.norm(dim=1)).max() <= 0.2 + 1e-6
    assert 0 <= moved.min() <= moved.max() <= 1
    assert torch.equal(inside_ball(x, x, 0.2, norm), x)


def test_the_model_is_in_evaluation_mode_and_does_not_change():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.rand(6, 4)
    inner_ascent(model, lambda z: z.sum(), x, x, Ascent(eps=0.1, eps_step=0.1, max_iter=2))
    logits = evaluated(model, x)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(logits, model.eval()(x))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_that_cuts_the_gradient_is_refused():
    class Cut(nn.Module):
        def forward(self, x):
            return x.detach()

    x = torch.rand(2, 3)
    with pytest.raises(ValueError, match="`model` cuts the gradient"):
        inner_ascent(Cut(), torch.sum, x, x, Ascent(eps=0.1, eps_step=0.1, max_iter=1))


def test_steps_in_l2_have_their_length_however_small_the_gradient():
    x = torch.zeros(3, 2)
    for factor in (1.0, 1e-20, 1e-30):
        ascent = Ascent(eps=0.5, eps_step=0.25, max_iter=1, norm="l2")
        moved = inner_ascent(nn.Identity(), lambda z, f=factor: f * z.sum(), x, x, ascent)
        assert torch.allclose(moved.norm(dim=1), torch.full((3,), 0.25))
