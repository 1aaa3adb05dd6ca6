from contextlib import suppress

import pytest
import torch
from torch import nn

from art_sensreg.utils.modes import eval_mode, frozen, preserve_mode, set_mode


class Folding(nn.Module):
    """As adapters do: weights are folded in evaluation mode, and unfolded in training mode."""

    folded = False

    def train(self, mode=True):
        self.folded = not mode
        return super().train(mode)


def mixed():
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(2), Folding()))
    model.train()
    model[1][0].eval()
    return model


def modes(model):
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_mode_leaves_each_modules_mode_as_it_was(training):
    model = mixed().train(training)
    model[0].train(not training)
    before = modes(model)
    with suppress(RuntimeError), eval_mode(model):
        assert not any(modes(model))
        assert model[1][1].folded
        raise RuntimeError
    assert modes(model) == before
    assert model[1][1].folded == (not training)


def test_only_the_modules_that_are_named_get_their_mode_back():
    model = mixed()
    with preserve_mode([model[0]]):
        model.eval()
    assert modes(model) == [False, True, False, False, False]


def test_frozen_weights_get_no_gradient_and_those_that_were_frozen_stay_so():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    with frozen(model):
        x = torch.ones(1, 2, requires_grad=True)
        model(x).sum().backward()
    assert x.grad is not None
    assert model.weight.grad is None
    assert (model.weight.requires_grad, model.bias.requires_grad) == (True, False)


def test_frozen_batch_norm_is_not_trained():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2), nn.BatchNorm1d(2, affine=False))
    model[0].requires_grad_(False)
    set_mode(model, True)
    assert modes(model) == [True, False, True, True]
    set_mode(model, False)
    assert not any(modes(model))
