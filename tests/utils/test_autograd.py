from contextlib import suppress

import pytest
import torch
from torch import nn

from art_sensreg.utils.autograd import (
    Entry,
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


class Skip(nn.Module):
    """The images act through a convolution and beside it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x):
        return self.conv(x) + x


class InPlace(nn.Conv2d):
    def forward(self, x):
        return super().forward(x.mul_(3.0))


class Twice(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) + super().forward(2 * x)


class Hooked(nn.Conv2d):
    """It scales the gradient of its input."""

    def forward(self, x):
        if x.requires_grad:
            x.register_hook(lambda gradient: 5 * gradient)
        return super().forward(x)


FIRST = {
    "3 x 3": (nn.Conv2d(1, 4, 3, padding=1), True),
    "3 channels": (nn.Conv2d(3, 8, 3, bias=False), True),
    "stride 2, even kernel": (nn.Conv2d(1, 4, 4, stride=2, padding=1), True),
    "pixels left over": (nn.Conv2d(2, 3, 3, stride=3), True),
    "dilated": (nn.Conv2d(2, 3, 3, padding=2, dilation=2), True),
    "not square": (nn.Conv2d(1, 3, (3, 5), stride=(2, 1), padding=(0, 2), dilation=(1, 2)), True),
    "1 x 1": (nn.Conv2d(2, 5, 1), True),
    "same": (nn.Conv2d(1, 3, 3, padding="same"), True),
    "reflected": (nn.Conv2d(1, 3, 3, padding=1, padding_mode="reflect"), False),
    "groups": (nn.Conv2d(2, 4, 3, groups=2), False),
    "transposed": (nn.ConvTranspose2d(1, 4, 3), False),
    "many channels": (nn.Conv2d(4, 4, 3), False),
    "frozen": (nn.Conv2d(1, 4, 3).requires_grad_(False), False),
    "parametrised": (nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 4, 3)), False),
    "standardised first": (nn.Sequential(nn.InstanceNorm2d(1), nn.Conv2d(1, 4, 3)), False),
    "beside it": (Skip(), False),
    "in place": (InPlace(1, 4, 3), False),
    "used twice": (Twice(1, 4, 3), False),
    "hooked": (Hooked(1, 4, 3), True),
    "flat": (nn.Sequential(nn.Flatten(), nn.Linear(90, 2)), False),
}


@pytest.mark.parametrize("copied", [True, False], ids=["copy", "itself"])
@pytest.mark.parametrize("case", FIRST)
def test_gradients_of_images_are_torchs_own_whatever_the_first_layer(case, copied, monkeypatch):
    monkeypatch.setattr("art_sensreg.utils.autograd._AT_ONCE", 2000)  # in parts
    first, fast = FIRST[case]
    torch.manual_seed(0)
    model = nn.Sequential(first, nn.Tanh(), nn.Flatten(), nn.LazyLinear(3)).double()
    channels = next((m.in_channels for m in model.modules() if hasattr(m, "in_channels")), 1)
    x = torch.rand(7, channels, 9, 10, dtype=torch.float64)
    model(x.clone())

    def entry():
        images = x.clone().requires_grad_(True)
        return Entry.of(images, images.clone() if copied or case == "in place" else None)

    def loss(entered):
        return model(entered.given).pow(2).sum()

    plain, own = entry(), entry()
    (wanted,) = torch.autograd.grad(loss(plain), plain.images)
    value = loss(own)
    assert (own._convolution(value) is not None) == fast
    found = own.gradient(value, retain_graph=True)
    assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-14)
    assert found.is_contiguous()
    assert not found.requires_grad
    assert torch.equal(own.gradient(value), found)  # the graph was kept


def test_hooks_see_the_gradient_of_the_images_in_turn():
    model, seen = nn.Conv2d(1, 2, 3), []
    images = torch.rand(2, 1, 4, 4).requires_grad_(True)
    entry = Entry.of(images, images.clone())
    value = model(entry.given).sum()
    for hook in (seen.append, torch.neg, seen.append):
        entry.given.register_hook(hook)
    found = entry.gradient(value)
    assert torch.equal(seen[0], -found)
    assert torch.equal(seen[1], found)


def test_a_model_that_keeps_the_gradient_of_the_images_gets_it():
    images = torch.rand(2, 1, 4, 4).requires_grad_(True)
    entry = Entry.of(images, images.clone())
    entry.given.retain_grad()
    value = nn.Conv2d(1, 2, 3)(entry.given).sum()
    assert entry._convolution(value) is None


def test_images_that_do_not_matter_have_no_gradient():
    images = torch.rand(2, 1, 4, 4).requires_grad_(True)
    weight = torch.ones((), requires_grad=True)
    assert Entry.of(images).gradient(weight * 2) is None
    assert Entry.of(images).gradient(torch.ones(())) is None


def test_half_precision_is_left_to_torch():
    images = torch.rand(2, 1, 4, 4, dtype=torch.bfloat16).requires_grad_(True)
    entry = Entry.of(images)
    assert entry._convolution(nn.Conv2d(1, 2, 3, dtype=torch.bfloat16)(images).sum()) is None


def test_no_images_have_a_gradient_of_no_images():
    images = torch.rand(0, 1, 4, 4).requires_grad_(True)
    assert Entry.of(images).gradient(nn.Conv2d(1, 2, 3)(images).sum()).shape == (0, 1, 4, 4)
