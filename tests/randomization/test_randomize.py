"""Randomised copies of networks: what stays of the user's network, and what can be randomised."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import spectral_norm

from art_sensreg.randomization import draws_differ, is_randomized, randomize
from tests.randomization.models import KINDS, functional_model


def linear_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_the_given_model_is_not_changed_and_its_weights_stay(kind):
    model = functional_model().double().train()
    model.first.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = randomize(model, kind=kind)
    assert type(model.first) is nn.Conv2d
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(random.state_dict()[name], value) for name, value in before.items())
    assert random.training
    assert next(random.parameters()).dtype == torch.float64
    assert not random.first.weight.requires_grad
    assert is_randomized(random)
    assert not is_randomized(model)
    x = torch.rand(2, 1, 6, 6, dtype=torch.float64)
    assert draws_differ(random, x)
    assert random.training
    assert random(x).dtype == torch.float64


@pytest.mark.parametrize("kind", KINDS)
def test_on_at_test_time_and_governed_by_the_seed(kind):
    random = randomize(functional_model(), kind=kind).eval()
    x = torch.rand(2, 1, 6, 6)
    torch.manual_seed(3)
    first, other = random(x), random(x)
    torch.manual_seed(3)
    assert torch.equal(random(x), first)
    assert not torch.equal(first, other)


def test_rse_without_convolutions_is_before_linear_layers():
    random = randomize(linear_model(), kind="rse", first_std=0.4, std=0.2)
    assert (random[0].std, random[2].std) == (0.4, 0.2)


@pytest.mark.parametrize("kind", KINDS)
def test_copies_files_and_resets_stay_random(kind):
    random = randomize(functional_model(), kind=kind).eval()
    x = torch.rand(2, 1, 6, 6)

    def draw(model):
        torch.manual_seed(0)
        return model(x)

    assert torch.equal(draw(copy.deepcopy(random)), draw(random))
    assert torch.equal(draw(pickle.loads(pickle.dumps(random))), draw(random))
    with torch.no_grad():
        for parameter in random.parameters():
            parameter.add_(0.01)
    buffer = io.BytesIO()
    torch.save(random.state_dict(), buffer)
    other = randomize(functional_model(), kind=kind).eval()
    other.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    assert torch.equal(draw(other), draw(random))
    before = random.head.weight.clone() if kind != "rse" else random.first.weight.clone()
    layer = random.head if kind != "rse" else random.first
    layer.reset_parameters()
    assert not torch.equal(layer.weight, before)
    if kind == "pni":
        assert layer.alpha.item() == 0.25
    if kind == "bayesian":
        assert functional.softplus(layer.weight_rho).mean().item() == pytest.approx(0.02, rel=1e-4)


def test_shared_layers_stay_shared():
    shared = nn.Linear(3, 3)
    random = randomize(nn.Sequential(shared, nn.ReLU(), shared), kind="bayesian")
    assert random[0] is random[2]
    assert len(list(random.parameters())) == 4


class Own(nn.Linear):
    pass


@pytest.mark.parametrize(
    ("model", "arguments", "error", "message"),
    [
        (nn.Linear(2, 2), {"kind": "dropout"}, ValueError, "`kind` is 'dropout'"),
        (
            nn.Linear(2, 2),
            {"kind": "rse", "alpha": 1},
            TypeError,
            r"randomize\(kind='rse'\) got an unknown keyword argument `alpha`=1; expected first_std, std\.",
        ),
        (nn.Linear(2, 2), {"kind": "rse", "std": -1}, ValueError, "`std` is -1"),
        (nn.Linear(2, 2), {"kind": "bayesian", "prior_std": 0}, ValueError, "`prior_std` is 0"),
        (nn.ReLU(), {}, ValueError, "`model` .ReLU. has no Conv1d"),
        (randomize(nn.Linear(2, 2)), {}, ValueError, "has random layers already"),
        (Own(2, 2), {}, ValueError, "of the class Own"),
        ("model", {}, TypeError, "`model` is str"),
        (nn.Sequential(nn.LazyLinear(3)), {}, ValueError, "lazy layer|of the class LazyLinear"),
    ],
)
def test_wrong_arguments_are_refused(model, arguments, error, message):
    with pytest.raises(error, match=message):
        randomize(model, **arguments)


def test_attention_is_left_out_and_the_rest_is_random():
    model = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True, dropout=0.0)
    random = randomize(model, kind="bayesian").eval()
    x = torch.rand(2, 3, 8)
    assert draws_differ(random, x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [2, 8])
def test_hidden_layers_are_those_of_the_network(kind, width):
    from art_sensreg import SensitivityPenalty
    from art_sensreg.penalties.forward.taps import plan_taps

    random = randomize(nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 2)), kind=kind)
    assert plan_taps(random, "hidden", torch.rand(2, 4)).names == ("tanh",)
    SensitivityPenalty()(random, torch.rand(6, 4)).backward()
    assert random[0].weight.grad is not None


def test_hooked_weights_are_refused_with_their_name():
    model = nn.Sequential(nn.Linear(6, 4), spectral_norm(nn.Linear(4, 3)))
    model(torch.rand(5, 6))
    with pytest.raises(ValueError, match=r"`model` has a layer '1' whose weight is computed by a hook"):
        randomize(model, kind="rse")
