"""States of models and optimizers are checked tensor by tensor before they are used."""

import copy

import pytest
import torch
from torch import nn

from art_sensreg.training.checkpoint.loading import check_live_state, check_model_state, check_optimizer_state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("bias"), "has no 'bias'"),
        (lambda s: s.update(more=torch.ones(1)), "holds 'more'; expected weights of this architecture"),
        (lambda s: s.update(bias=torch.ones(3)), r"'bias' of shape \(3,\); expected \(1,\)"),
        (lambda s: s.update(bias=torch.ones(1).double()), "'bias' of torch.float64; expected torch.float32"),
        (lambda s: s.update(bias=torch.tensor([float("nan")])), "'bias' with 1 NaN or infinite values"),
        (lambda s: s.update(bias=[0.0]), "'bias' as list; expected a tensor"),
    ],
)
def test_weights_of_another_model_are_refused(change, message):
    model = nn.Linear(2, 1)
    state = dict(copy.deepcopy(model.state_dict()))
    check_model_state(model, state, "The file")
    change(state)
    with pytest.raises(ValueError, match=message):
        check_model_state(model, state, "The file")


def test_a_mask_of_minus_infinity_is_a_value_of_the_models_own():
    model = nn.Module()
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    check_model_state(model, {"mask": torch.tensor([1.0, -torch.inf])}, "The file")
    with pytest.raises(ValueError, match="'mask' with 1 NaN or infinite"):
        check_model_state(model, {"mask": torch.tensor([-torch.inf, -torch.inf])}, "The file")


def stepped(width, **settings):
    weight = torch.ones(width, requires_grad=True)
    optimizer = torch.optim.Adam([weight], **settings)
    weight.sum().backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["state"][0].update(exp_avg=torch.ones(2)), r"'exp_avg' .* of shape \(2,\); expected \(3,\)"),
        (lambda s: s["state"][0].pop("exp_avg_sq"), "has no 'exp_avg_sq' of parameter 0"),
        (lambda s: s["state"].update({5: {}}), "state of parameter 5 of 1"),
        (lambda s: s["param_groups"][0].pop("betas"), "its group 0 has no 'betas'"),
        (lambda s: s["param_groups"][0].update(lr=float("inf")), "'lr' of group 0"),
        (lambda s: s["param_groups"].append({}), "state of another optimizer"),
    ],
)
def test_a_state_of_another_optimizer_is_refused(change, message):
    optimizer = stepped(3)
    state = copy.deepcopy(optimizer.state_dict())
    check_optimizer_state(optimizer, state, "The file")
    change(state)
    with pytest.raises(ValueError, match=message):
        check_optimizer_state(optimizer, state, "The file")


def test_a_weight_that_was_replaced_is_noticed():
    optimizer = stepped(3)
    check_live_state(optimizer)
    optimizer.param_groups[0]["params"][0].data = torch.ones(4)
    with pytest.raises(ValueError, match=r"`optimizer` holds 'exp_avg' of parameter 0"):
        check_live_state(optimizer)
