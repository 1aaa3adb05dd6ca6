"""Randomised networks: where the noise is and how large, what is learned, and what stays of the user's network."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional

from art_sensreg.randomization import BayesianKL, draws_differ, is_randomized, randomize
from art_sensreg.randomization.bayesian import gaussian_divergence
from art_sensreg.randomization.layers import RandomLayer

KINDS = ["rse", "bayesian", "pni"]


class Functional(nn.Module):
    """A nested model in functional style that uses one layer twice."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular")
        self.block = nn.ModuleDict({"shared": nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)})
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = functional.relu(self.norm(self.first(x)))
        x = functional.relu(self.block["shared"](x))
        x = functional.relu(self.block["shared"](x))
        return self.head(x.mean((2, 3)))


def functional_model():
    torch.manual_seed(0)
    return Functional()


def linear_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def mean_of_draws(model, x, draws=3000):
    with torch.no_grad():
        outputs = torch.stack([model(x) for _ in range(draws)])
    return outputs.mean(0), outputs.std(0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_given_model_is_left_alone_and_its_weights_stay(kind):
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


def test_rse_noise_is_of_the_size_that_was_asked_for():
    model = functional_model().eval()
    random = randomize(model, kind="rse", first_std=0.3, std=0.05)
    assert (random.first.std, random.block["shared"].std) == (0.3, 0.05)
    assert type(random.head) is nn.Linear  # there are convolutions
    seen = []
    zeros = torch.zeros(400, 1, 6, 6)
    # The layer of all ones shows the noise that it was given.
    probe = randomize(nn.Conv2d(1, 1, 1, bias=False), kind="rse", first_std=0.3)
    nn.init.ones_(probe.weight)
    seen = probe(zeros).flatten(1)
    assert seen.std().item() == pytest.approx(0.3, rel=0.03)
    assert abs(seen.mean().item()) < 0.01
    correlation = torch.corrcoef(seen[:50])
    assert (correlation - torch.eye(50)).abs().mean() < 0.2  # every row has its own noise


def test_rse_without_convolutions_is_before_linear_layers():
    random = randomize(linear_model(), kind="rse", first_std=0.4, std=0.2)
    assert (random[0].std, random[2].std) == (0.4, 0.2)


def test_pni_noise_is_in_proportion_to_the_weights():
    linear = nn.Linear(6, 4)
    random = randomize(linear, kind="pni", initial_alpha=0.5)
    x = torch.ones(1, 6)
    mean, std = mean_of_draws(random, x)
    wanted = 0.5 * linear.weight.std(correction=0).item() * 6**0.5
    assert std.mean().item() == pytest.approx(wanted, rel=0.05)
    assert torch.allclose(mean, linear(x), atol=4 * wanted / 3000**0.5)
    torch.manual_seed(0)
    random(x).sum().backward()
    torch.manual_seed(0)
    noise = torch.randn_like(linear.weight) * linear.weight.std(correction=0)
    assert random.alpha.grad.item() == pytest.approx(noise.sum().item(), rel=1e-4)


def test_bayesian_weights_have_their_moments():
    linear = nn.Linear(6, 4)
    random = randomize(linear, kind="bayesian", initial_std=0.3)
    x = torch.rand(1, 6)
    mean, std = mean_of_draws(random, x)
    wanted = 0.3 * (x.pow(2).sum() + 1).sqrt().item()
    assert std.mean().item() == pytest.approx(wanted, rel=0.05)
    assert torch.allclose(mean, linear(x), atol=5 * wanted / 3000**0.5)
    rows = random(x.expand(5, 6))
    assert torch.allclose(rows, rows[:1].expand(5, 4))  # one draw a pass


def test_the_divergence_against_torchs_own():
    random = randomize(functional_model().double(), kind="bayesian", prior_std=0.2, initial_std=0.07)
    wanted = 0.0
    for module in random.modules():
        if isinstance(module, RandomLayer):
            for mean, rho in ((module.weight, module.weight_rho), (module.bias, module.bias_rho)):
                if mean is not None:
                    own = torch.distributions.Normal(mean, functional.softplus(rho))
                    prior = torch.distributions.Normal(torch.zeros_like(mean), 0.2)
                    wanted += torch.distributions.kl_divergence(own, prior).sum().item()
    assert BayesianKL()(random).item() == pytest.approx(wanted, rel=1e-9)
    mean, std = torch.randn(3, dtype=torch.float64), torch.rand(3, dtype=torch.float64) + 0.1
    assert torch.autograd.gradcheck(
        lambda m, s: gaussian_divergence(m, s, 0.5), (mean.requires_grad_(), std.requires_grad_())
    )
    # A sum over many weights in bfloat16 has two or three digits.
    half = randomize(nn.Linear(300, 300), kind="bayesian").bfloat16()
    assert BayesianKL()(half).dtype == torch.float32
    assert BayesianKL()(half).item() == pytest.approx(BayesianKL()(copy.deepcopy(half).double()).item(), rel=1e-2)
    with pytest.raises(ValueError, match="no Bayesian layer"):
        BayesianKL()(nn.Linear(2, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_copies_files_and_resets(kind):
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: nn.Conv1d(2, 4, 3, stride=2, dilation=2), (3, 2, 9)),
        (lambda: nn.Conv2d(2, 4, 3, groups=2, padding_mode="reflect", padding=1), (3, 2, 5, 5)),
        (lambda: nn.Conv3d(1, 2, 2, bias=False), (3, 1, 3, 3, 3)),
        (lambda: nn.Linear(5, 2), (3, 5)),
    ],
    ids=["conv1d", "conv2d", "conv3d", "linear"],
)
def test_layers_of_all_kinds(kind, layer, shape):
    torch.manual_seed(0)
    plain = layer()
    options = {"rse": {"first_std": 1e-6}, "bayesian": {"initial_std": 1e-6}, "pni": {"initial_alpha": 1e-6}}[kind]
    random = randomize(plain, kind=kind, **options)
    x = torch.rand(shape, requires_grad=True)
    assert torch.allclose(random(x), plain(x), atol=1e-3)
    (gradient,) = torch.autograd.grad(random(x).pow(2).sum(), x, create_graph=True)
    gradient.pow(2).sum().backward()  # double backward
    assert all(torch.isfinite(p.grad).all() for p in random.parameters() if p.grad is not None)


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
def test_wrong_arguments(model, arguments, error, message):
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
