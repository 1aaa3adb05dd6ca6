import gc

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from art_sensreg import SensitivityPenalty
from art_sensreg.models import build_model
from art_sensreg.penalties.forward.taps import ActivationTaps, plan_taps


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 2)

    def forward(self, x):
        x = F.relu(self.a(x))
        x = torch.tanh(self.b(x))
        return self.c(x.clamp(min=0))


class Reused(nn.Module):
    def __init__(self):
        super().__init__()
        self.act, self.a, self.b = nn.GELU(), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.b(self.act(self.a(self.act(self.a(x)))))


class EndsInActivation(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x):
        return torch.sigmoid(self.b(F.silu(self.a(x))))


class InPlaceResidual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        hidden = F.relu(self.a(x))
        hidden += x
        return self.b(hidden)


NESTED = nn.Sequential(
    nn.Sequential(nn.Linear(4, 5), nn.ReLU()), nn.Sequential(nn.Linear(5, 3), nn.SiLU()), nn.Linear(3, 2)
)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (NESTED, ("relu", "silu")),
        (Functional(), ("relu", "tanh", "relu")),
        (Reused(), ("gelu", "gelu")),
        (EndsInActivation(), ("silu",)),
        (
            nn.Sequential(nn.Linear(4, 3), nn.PReLU(), nn.Linear(3, 3), nn.Hardswish(), nn.Linear(3, 2)),
            ("prelu", "hardswish"),
        ),
    ],
)
def test_hidden_layers_of_every_style(model, names):
    assert plan_taps(model, "hidden", torch.rand(3, 4)).names == names


@pytest.mark.parametrize("norm_layer", ["none", "batch"])
@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
@pytest.mark.parametrize(
    ("name", "count"),
    [("mlp", 1), ("cnn-small", 4), ("cnn-medium", 6), ("lenet", 4), ("resnet-small", 7), ("preact-resnet18", 17)],
)
def test_hidden_layers_of_the_models(name, count, activation, norm_layer):
    model = build_model(name, (1, 8, 8), 10, activation, norm_layer)
    assert plan_taps(model, "hidden", torch.rand(2, 1, 8, 8)).names == (activation,) * count


def test_values_are_the_outputs_and_the_inputs_of_the_nonlinearities():
    model, x = Functional(), torch.rand(3, 4)
    with ActivationTaps(model, "hidden+logits") as taps:
        logits = model(x)
    (_, first), (_, second), _, (last, value) = taps.read(logits)
    assert torch.equal(first, F.relu(model.a(x)))
    assert torch.equal(second, torch.tanh(model.b(first)))
    assert last == "logits"
    assert value is logits
    with ActivationTaps(model, "pre_activation") as taps:
        logits = model(x)
    assert torch.equal(taps.read(logits)[0][1], model.a(x))


def test_names_and_kinds():
    assert plan_taps(NESTED, ["0.0", "1", "logits"], torch.rand(3, 4)).names == ("0.0", "1", "logits")
    assert plan_taps(NESTED, [nn.Linear], torch.rand(3, 4)).names == ("0.0", "1.0", "2")
    assert plan_taps(Reused(), ["a"], torch.rand(3, 4)).names == ("a", "a")
    assert plan_taps(nn.Linear(4, 2), "logits", torch.rand(3, 4)).names == ("logits",)


@pytest.mark.parametrize(
    ("model", "layers", "expected"),
    [
        (nn.Sequential(nn.Linear(4, 3), nn.ReLU(inplace=True), nn.Linear(3, 2)), "hidden", False),
        (nn.Sequential(nn.Linear(4, 3), nn.ReLU(inplace=True), nn.Linear(3, 2)), "pre_activation", True),
        (InPlaceResidual(), "hidden", True),
    ],
)
def test_activations_that_are_overwritten_later_are_copied(model, layers, expected):
    x = torch.rand(3, 4)
    plan = plan_taps(model, layers, x)
    assert plan.clone is expected
    first = model[0] if isinstance(model, nn.Sequential) else model.a
    with ActivationTaps(model, layers, plan.clone) as taps:
        logits = model(x)
    assert not taps.overwritten
    wanted = first(x) if layers == "pre_activation" else F.relu(first(x))
    assert torch.equal(taps.read(logits)[0][1], wanted)


def test_no_hook_and_no_mode_stays_behind():
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(), nn.ReLU(), nn.Linear(3, 2))
    model.train()
    model[1].eval()
    state = torch.get_rng_state()
    plan_taps(model, ["0"], torch.rand(3, 4, generator=torch.Generator().manual_seed(0)))
    assert not model[0]._forward_hooks
    assert [module.training for module in model.modules()] == [True, True, False, True, True]
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ("hiden", ValueError, r"`layers` is 'hiden'; expected one of hidden"),
        (["9"], ValueError, r"`layers` asks for '9', which the model does not have; its modules: 0, 0.0"),
        ([nn.Conv2d], ValueError, r"`layers` asks for Conv2d"),
        ([], ValueError, r"`layers` is empty"),
        ([3], TypeError, r"`layers` holds 3"),
        (3, TypeError, r"`layers` is 3"),
    ],
)
def test_wrong_layers(layers, error, message):
    with pytest.raises(error, match=message):
        plan_taps(NESTED, layers, torch.rand(3, 4))


def test_nothing_to_tap():
    with pytest.raises(ValueError, match=r"finds nothing to tap in Sequential: no known non-linearity"):
        plan_taps(nn.Sequential(nn.Linear(4, 2)), "hidden", torch.rand(3, 4))


def test_the_batch_must_come_first():
    class TimeFirst(nn.Module):
        def forward(self, x):
            return torch.relu(x.T).T

    with pytest.raises(ValueError, match=r"expected the batch as the first dimension"):
        plan_taps(nn.Sequential(TimeFirst(), nn.Linear(4, 2)), "hidden", torch.rand(3, 4))


def test_the_model_must_return_logits():
    with pytest.raises(ValueError, match=r"`model` returns shape \(2, 1, 4\); expected logits"):
        plan_taps(nn.Sequential(nn.ReLU()), "hidden", torch.rand(3, 1, 4))


def test_the_output_is_not_hidden_even_when_taps_are_copies():
    class EndsInSoftplus(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            hidden = F.relu(self.a(x))
            hidden += self.b(hidden.clone())
            return F.softplus(self.c(hidden))

    model, x = EndsInSoftplus(), torch.rand(3, 4)
    plan = plan_taps(model, "hidden", x)
    assert (plan.names, plan.clone) == (("relu",), True)
    with ActivationTaps(model, "hidden", clone=True) as taps:
        logits = model(x)
    assert [name for name, _ in taps.read(logits)] == ["relu"]


def test_a_named_layer_that_never_runs():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.aux = nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x):
            return self.used(x)

    with pytest.raises(ValueError, match=r"`layers` asks for 'aux', which does not run in a forward pass"):
        plan_taps(Unused(), ["used", "aux"], torch.rand(3, 4))


def test_a_step_leaves_no_activations_for_the_garbage_collector():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))

    def with_a_graph() -> int:
        return sum(isinstance(entry, torch.Tensor) and entry.grad_fn is not None for entry in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = with_a_graph()
        SensitivityPenalty()(model, torch.rand(5, 3)).backward()
        assert with_a_graph() == before
    finally:
        gc.enable()
