"""What is tapped where a non-linearity is written by hand or gates a signal, against tensors computed by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from art_sensreg import SensitivityPenalty
from art_sensreg.penalties.forward.taps import ActivationTaps, plan_taps


class Hidden(nn.Module):
    """Linear, some activation, linear."""

    def __init__(self, act, width=6):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.act, self.last = nn.Linear(4, 6), act, nn.Linear(width, 2)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(self, x):
        return self.last(self.act(self.first(x)))


def read(model, x, clone=False):
    with ActivationTaps(model, "hidden", clone) as taps:
        logits = model(x)
    assert not taps.overwritten
    return [value for _, value in taps.read(logits)]


def images(n=5):
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(1))


class Swish(torch.autograd.Function):
    """As timm's SwishMe: the input is saved, and nothing else."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.mul(torch.sigmoid(x))

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        gate = torch.sigmoid(x)
        return gradient * (gate * (1 + x * (1 - gate)))


class Mish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.mul(torch.tanh(F.softplus(x)))

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        inner = torch.tanh(F.softplus(x))
        return gradient * (inner + x * torch.sigmoid(x) * (1 - inner * inner))


class HardSwish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * (x + 3).clamp(min=0, max=6).div(6.0)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        inside = ((x >= -3) & (x <= 3)).to(x)
        return gradient * torch.where(x > 3, torch.ones_like(x), inside * (x / 3 + 0.5))


class HardSigmoid(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x + 3).clamp(min=0, max=6).div(6.0)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * ((x >= -3) & (x <= 3)) / 6


def tanh_gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3))))


def tanh_gelu_in_another_order(x):
    return x * torch.tanh((x + 0.044715 * x**3) * math.sqrt(2 / math.pi)).add(1) * 0.5


ROOT2 = math.sqrt(2)
BY_HAND = {
    "x * sigmoid(x)": (lambda x: x * torch.sigmoid(x), F.silu),
    "x.sigmoid() * x": (lambda x: x.sigmoid() * x, F.silu),
    "torch.mul": (lambda x: torch.mul(x, F.sigmoid(x)), F.silu),
    "keywords": (lambda x: torch.multiply(input=x, other=torch.special.expit(x)), F.silu),
    "in place": (lambda x: x.mul_(torch.sigmoid(x)), F.silu),
    "in place, a copy": (lambda x: torch.sigmoid(x).clone().mul_(x), F.silu),
    "a module": (lambda x: nn.Sigmoid()(x) * x, F.silu),
    "quick GELU": (lambda x: torch.sigmoid(1.702 * x) * x, lambda x: x * torch.sigmoid(1.702 * x)),
    "tanh GELU": (tanh_gelu, lambda x: F.gelu(x, approximate="tanh")),
    "tanh GELU, reordered": (tanh_gelu_in_another_order, lambda x: F.gelu(x, approximate="tanh")),
    "exact GELU": (lambda x: x * 0.5 * (1.0 + torch.erf(x / ROOT2)), F.gelu),
    "hard-swish, ReLU6": (lambda x: x * F.relu6(x + 3) / 6, F.hardswish),
    "hard-swish, clamp": (lambda x: x * torch.clamp(x + 3, 0, 6) / 6, F.hardswish),
    "hard-swish, hardtanh": (lambda x: F.hardtanh(x + 3, 0.0, 6.0).div_(6.0) * x, F.hardswish),
    "hard-swish, hardsigmoid": (lambda x: x * F.hardsigmoid(x), F.hardswish),
    "mish": (lambda x: x * torch.tanh(F.softplus(x)), F.mish),
    "swish of a Function": (Swish.apply, F.silu),
    "mish of a Function": (Mish.apply, F.mish),
    "hard-swish of a Function": (HardSwish.apply, F.hardswish),
    "gate of a Function": (lambda x: x * HardSigmoid.apply(x), F.hardswish),
}


@pytest.mark.parametrize("clone", [False, True])
@pytest.mark.parametrize(("act", "wanted"), BY_HAND.values(), ids=BY_HAND)
def test_a_hand_written_activation_is_tapped_as_one(act, wanted, clone):
    model, x = Hidden(act), images()
    (value,) = read(model, x, clone or plan_taps(model, "hidden", x).clone)
    torch.testing.assert_close(value, wanted(model.first(x)))
    (gradient,) = torch.autograd.grad(value.sum(), model.first.weight)
    (expected,) = torch.autograd.grad(wanted(model.first(x)).sum(), model.first.weight)
    torch.testing.assert_close(gradient, expected)


GATED = {
    "GLU": lambda a, b: a * torch.sigmoid(b),
    "SwiGLU": lambda a, b: F.silu(a) * b,
    "SwiGLU by hand": lambda a, b: a * torch.sigmoid(a) * b,
    "GEGLU": lambda a, b: b * F.gelu(a),
    "ReGLU": lambda a, b: torch.relu(a) * b,
    "tanh and sigmoid": lambda a, b: torch.tanh(a) * torch.sigmoid(b),
}


@pytest.mark.parametrize("act", GATED.values(), ids=GATED)
def test_of_a_gated_unit_the_product_is_tapped(act):
    model, x = Hidden(lambda hidden: act(*hidden.chunk(2, dim=1)), width=3), images()
    (value,) = read(model, x)
    torch.testing.assert_close(value, act(*model.first(x).chunk(2, dim=1)))
    assert plan_taps(model, "hidden", x).width == 3


class SqueezeExcite(nn.Module):
    """Hu et al. 2018, after an activation: `pooled -> linear -> ReLU -> linear -> sigmoid`, and the product."""

    def __init__(self, act, scale):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.conv, self.act, self.scale = nn.Conv2d(1, 3, 3), act, scale
        self.down, self.up, self.head = nn.Linear(3, 2), nn.Linear(2, 3), nn.Linear(3, 2)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def parts(self, x):
        features = self.act(self.conv(x))
        small = torch.relu(self.down(features.mean((2, 3))))
        return features, small, torch.sigmoid(self.up(small)).view(-1, 3, 1, 1)

    def forward(self, x):
        features, _, gate = self.parts(x)
        return self.head(self.scale(features, gate).mean((2, 3)))


@pytest.mark.parametrize("act", [torch.relu, torch.tanh, F.silu, lambda x: x * torch.sigmoid(x)])
@pytest.mark.parametrize(
    "scale",
    [
        lambda x, gate: x * gate,
        lambda x, gate: gate.expand_as(x) * x,
        lambda x, gate: torch.mul(gate.to(x.dtype), x),
        lambda x, gate: gate.repeat(1, 1, x.shape[2], x.shape[3]) * x,
    ],
)
def test_the_gate_of_squeeze_and_excitation_is_no_activation(act, scale):
    model, x = SqueezeExcite(act, scale), torch.randn(2, 1, 5, 5, generator=torch.Generator().manual_seed(2))
    features, small, gate = model.parts(x)
    for value, wanted in zip(read(model, x), (features, small, features * gate), strict=True):
        torch.testing.assert_close(value, wanted)


UNCHANGED = {
    "tanh": (torch.tanh, torch.tanh),
    "sigmoid, scaled": (lambda x: 2 * torch.sigmoid(x) - 1, torch.sigmoid),
    "silu, scaled": (lambda x: F.silu(x) * 1.7, F.silu),
    "in a sum": (lambda x: torch.tanh(x) + x, torch.tanh),
    "with a parameter": (lambda x: torch.tanh(x) * nn.Parameter(torch.full((1, 6), 3.0)), torch.tanh),
    "with a mask": (lambda x: torch.tanh(x) * torch.bernoulli(torch.full_like(x, 0.5)), torch.tanh),
    "with stochastic depth": (lambda x: F.relu(x) * ((torch.rand(len(x), 1) < 0.5).float() / 0.5), F.relu),
    "squared": (lambda x: torch.relu(x) * torch.relu(x), None),
    "asked for its shape": (lambda x: (h := torch.sigmoid(x)).view(h.shape[0], h.size(1)), torch.sigmoid),
    "of hard softmax": (lambda x: torch.softmax(x, 1) * x, None),
}


@pytest.mark.parametrize(("act", "wanted"), UNCHANGED.values(), ids=UNCHANGED)
def test_what_is_no_gate_is_tapped_as_before(act, wanted):
    model, x = Hidden(act), images()
    found = read(model, x)
    if wanted is not None:
        assert len(found) == 1
        assert torch.equal(found[0], wanted(model.first(x)))
    elif found:
        assert all(torch.equal(value, torch.relu(model.first(x))) for value in found)


def test_recurrent_gates():
    class Highway(nn.Module):
        """Srivastava et al. 2015: a gate with two products."""

        def __init__(self):
            super().__init__()
            self.first, self.gate, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            hidden, gate = F.relu(self.first(x)), torch.sigmoid(self.gate(x))
            return self.last(hidden * gate + x * (1 - gate))

    model, x = Highway(), images()
    hidden, product = read(model, x)
    assert torch.equal(hidden, F.relu(model.first(x)))
    assert torch.equal(product, hidden * torch.sigmoid(model.gate(x)))


def test_gates_that_are_computed_at_once():
    class Recurrent(nn.Module):
        """One step of a gated recurrent unit, from a state that is a function of the input."""

        def __init__(self):
            super().__init__()
            generator = torch.Generator().manual_seed(0)
            self.state, self.gates, self.new = (nn.Linear(4, width) for width in (3, 6, 3))
            self.again, self.last = nn.Linear(3, 3), nn.Linear(3, 2)
            for parameter in self.parameters():
                parameter.data = torch.randn(parameter.shape, generator=generator)

        def parts(self, x):
            state = self.state(x)
            reset, update = torch.sigmoid(self.gates(x)).chunk(2, dim=1)
            new = torch.tanh(self.new(x) + self.again(reset * state))
            return state, reset, update, new

        def forward(self, x):
            state, _, update, new = self.parts(x)
            return self.last((1 - update) * new + update * state)

    model, x = Recurrent(), images()
    state, reset, update, new = model.parts(x)
    for value, wanted in zip(read(model, x), (reset * state, (1 - update) * new), strict=True):
        torch.testing.assert_close(value, wanted)


def test_a_gated_unit_after_its_activation_keeps_it():
    """Half of an activation scales the other half, linearly changed: the activation is one, as it was."""

    class SpatialGating(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.mixed, self.last = nn.Linear(4, 6), nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            u, v = F.gelu(self.first(x)).chunk(2, dim=1)
            return self.last(u * self.mixed(v))

    model, x = SpatialGating(), images()
    (value,) = read(model, x)
    assert torch.equal(value, F.gelu(model.first(x)))


def test_a_copy_of_what_a_function_returns_has_a_gradient():
    class Overwritten(Hidden):
        def forward(self, x):
            hidden = self.act(self.first(x))
            hidden += 1.0
            return self.last(hidden)

    model, x = Overwritten(Swish.apply), images()
    plan = plan_taps(model, "hidden", x)
    assert plan.clone
    (value,) = read(model, x, plan.clone)
    torch.testing.assert_close(value, F.silu(model.first(x)))
    assert torch.autograd.grad(value.sum(), model.first.weight)[0].abs().sum() > 0


def test_the_penalty_of_a_function_is_that_of_the_same_activation():
    """Value and gradient: a tap inside the function would have the value of the gate, and no gradient."""
    x = images(50)
    results = []
    for act in (Swish.apply, F.silu, lambda x: x * torch.sigmoid(x)):
        model = Hidden(act)
        value = SensitivityPenalty(sigma=0.1)(model, x, generator=torch.Generator().manual_seed(3))
        results.append((value, torch.autograd.grad(value, model.first.weight)[0]))
    for value, gradient in results[:1] + results[2:]:
        torch.testing.assert_close(value, results[1][0])
        torch.testing.assert_close(gradient, results[1][1], rtol=1e-4, atol=1e-5)
