from contextlib import suppress

import pytest
import torch
from torch import nn

from art_sensreg.utils.autograd import (
    check_differentiable,
    enable_grad,
    leaves,
    outside_inference_mode,
    preserve_grad,
    reached,
)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_gradients_are_enabled_wherever_they_were_disabled(context):
    with context():
        with enable_grad():
            assert torch.ones(1, requires_grad=True).sum().requires_grad
        assert torch.is_grad_enabled() == (context is torch.enable_grad)


@outside_inference_mode
def slope(x, scale=None):
    return torch.func.grad(lambda value: (value**2).sum())(x) * (1 if scale is None else scale)


def test_a_function_differentiates_inside_inference_mode_and_with_tensors_made_there():
    with torch.inference_mode():
        made_there = torch.ones(2)
        assert slope(made_there, scale=torch.tensor(3.0)).tolist() == [6.0, 6.0]
    assert slope(made_there).tolist() == [2.0, 2.0]
    assert slope(torch.ones(2)).tolist() == [2.0, 2.0]


def test_the_mode_of_the_caller_counts_inside():
    enabled = outside_inference_mode(torch.is_grad_enabled)
    with torch.inference_mode():
        assert not enabled()
    with torch.no_grad():
        assert not enabled()
    assert enabled()


def test_gradients_of_weights_are_what_they_were():
    model = nn.Linear(2, 1)
    model.weight.grad = torch.ones(1, 2)
    with suppress(RuntimeError), preserve_grad(model):
        assert model.weight.grad is None
        model(torch.full((1, 2), 5.0)).sum().backward()
        raise RuntimeError
    assert model.weight.grad.tolist() == [[1.0, 1.0]]
    assert model.bias.grad is None


def test_weights_made_in_inference_mode_are_refused():
    with torch.inference_mode():
        model = nn.Linear(1, 1)
    with pytest.raises(ValueError, match=r"^`estimator` has `weight` made inside torch.inference_mode\(\)"):
        check_differentiable(model, "estimator")
    check_differentiable(nn.Linear(1, 1), "estimator")


def test_a_path_is_found_through_a_graph_deeper_than_python_recurses():
    weight = nn.Parameter(torch.ones(()))
    value = weight * 1.0
    for _ in range(5000):
        value = value + 0.1 * value
    assert reached([value, value.detach(), weight], [weight]) == [True, False, True]
    assert reached([value], [nn.Parameter(torch.ones(()))]) == [False]
    assert leaves([value]) == {id(weight)}
    assert leaves([value.detach()]) == set()


def test_all_leaves_of_several_tensors_are_found():
    layer, x = nn.Linear(2, 2), torch.ones(1, 2, requires_grad=True)
    y = layer(x)
    assert leaves([y.sum(), y * 2]) == {id(x), id(layer.weight), id(layer.bias)}
    assert reached([y, y.detach(), x], layer.parameters()) == [True, False, False]
