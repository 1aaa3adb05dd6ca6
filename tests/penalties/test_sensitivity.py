import math

import pytest
import torch
from torch import nn
from torch.autograd.functional import jacobian

from art_sensreg import SensitivityPenalty
from art_sensreg.penalties.forward.noise import NOISES, draw_noise
from tests.penalties.helpers import by_weights, generator


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5), nn.GELU(), nn.Linear(5, 4)).double()


@pytest.fixture
def x():
    return torch.rand(5, 6, generator=torch.Generator().manual_seed(1)).double()


def mean_of(penalty, net, x, repeats=50, copies=8):
    """The mean of many draws, several of each image in a call, and its standard error."""
    with torch.no_grad():
        values = torch.stack([penalty(net, x.repeat(copies, 1)) for _ in range(repeats)])
    return values.mean(), values.std() / math.sqrt(repeats)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("sigma", [1e-3, 0.5])
def test_a_linear_layer_has_its_closed_form(noise, sigma):
    torch.manual_seed(0)
    linear = nn.Linear(6, 4).double()
    mean, error = mean_of(
        SensitivityPenalty(sigma=sigma, noise=noise, layers="logits"), linear, torch.rand(50, 6).double()
    )
    assert abs(mean - linear.weight.pow(2).sum() / 4) < 4 * error


def test_small_noise_gives_the_frobenius_norms_of_all_layers(net, x):
    def truth(depth):
        part = net[:depth]
        norms = [jacobian(lambda row: part(row[None])[0], row).pow(2).sum() for row in x]
        return torch.stack(norms).mean() / part(x).shape[1]

    for layers, depths in (("hidden", (2, 4)), ("pre_activation", (1, 3)), ("hidden+logits", (2, 4, 5)), (["2"], (3,))):
        mean, error = mean_of(SensitivityPenalty(sigma=1e-3, layers=layers), net, x)
        assert abs(mean - torch.stack([truth(depth) for depth in depths]).mean()) < 4 * error


def by_hand(penalty, net, x, seed, clip=None):
    """The formula of DESIGN section 3, layer by layer and neuron by neuron."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros((), dtype=x.dtype)
    sigma, distance = penalty.sigma, penalty.distance
    for _ in range(penalty.probes):
        noisy = x + sigma * draw_noise(x, penalty.noise, generator)
        noisy = noisy if clip is None else noisy.clamp(*clip)
        for index, depth in enumerate((2, 4)):
            clean_act, noisy_act = net[:depth](x), net[:depth](noisy)
            weight = 0.5 if penalty.layer_weights is None else penalty.layer_weights[index]
            rows = []
            for a, b in zip(clean_act, noisy_act, strict=True):
                if distance == "squared":
                    rows.append(sum((q - p) ** 2 for p, q in zip(a, b, strict=True)) / len(a) / sigma**2)
                else:
                    rows.append(sum(abs(q - p) for p, q in zip(a, b, strict=True)) / len(a) / sigma)
            term = sum(rows) / len(rows)
            if penalty.scale == "relative":
                size = clean_act.pow(2).mean()
                term = term / (size if distance == "squared" else size.sqrt())
            total = total + weight * term / penalty.probes
    return total


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"noise": "uniform"},
        {"noise": "rademacher"},
        {"noise": "sphere"},
        {"sigma": 1.3},
        {"probes": 3},
        {"distance": "absolute"},
        {"scale": "relative"},
        {"scale": "relative", "distance": "absolute"},
        {"clip": True},
        {"layer_weights": (0.2, 3.0)},
    ],
    ids=str,
)
def test_every_option_computed_another_way(net, x, options):
    penalty = SensitivityPenalty(**options)
    value = penalty(net, x, generator=torch.Generator().manual_seed(5), clip_values=(0.0, 1.0))
    wanted = by_hand(penalty, net, x, 5, clip=(0.0, 1.0) if penalty.clip else None)
    assert torch.isclose(value, wanted, rtol=1e-10)


def test_a_range_of_sigma_is_drawn_anew_each_time(net, x):
    penalty = SensitivityPenalty(sigma=(0.1, 0.9))
    sigmas = [float(penalty.branches(torch.nn.Identity(), x, None, None)[1]) for _ in range(200)]
    assert min(sigmas) >= 0.1
    assert max(sigmas) <= 0.9
    assert max(sigmas) - min(sigmas) > 0.7
    generator = torch.Generator().manual_seed(2)
    (noisy,), sigma = penalty.branches(torch.nn.Identity(), x, generator, None)
    generator.manual_seed(2)
    torch.rand((), dtype=x.dtype, generator=generator)
    assert torch.allclose(noisy, x + sigma * draw_noise(x, "gaussian", generator))


@pytest.mark.parametrize("detach_clean", [False, True])
@pytest.mark.parametrize("scale", ["per_neuron", "relative"])
def test_gradients(net, x, detach_clean, scale):
    penalty = SensitivityPenalty(detach_clean=detach_clean, scale=scale)
    value, leaves = by_weights(net, lambda model: penalty(model, x, generator=generator()))
    if not detach_clean and scale == "per_neuron":
        assert torch.autograd.gradcheck(value, leaves, fast_mode=True)
        return
    # A detached part makes the gradient another one than the value's, by intent: compare with the formula by hand.
    gradient = torch.autograd.grad(value(*leaves), leaves[0])[0]
    noisy = x + 0.3 * draw_noise(x, "gaussian", torch.Generator().manual_seed(0))
    taps = [[], []]
    for index, batch in enumerate((x, noisy)):
        hidden = torch.tanh(batch @ leaves[0].T + leaves[1])
        taps[index] += [hidden, nn.functional.gelu(hidden @ leaves[2].T + leaves[3])]
    wanted = 0
    for clean, moved in zip(*taps, strict=True):
        target = clean.detach() if detach_clean else clean
        size = clean.detach().pow(2).mean() if scale == "relative" else 1.0
        wanted = wanted + (moved - target).pow(2).mean() / 0.3**2 / size / 2
    assert torch.allclose(gradient, torch.autograd.grad(wanted, leaves[0])[0], rtol=1e-8)


def test_half_precision_activations_are_compared_in_float32(net, x):
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert SensitivityPenalty()(model, x.float()).dtype is torch.float32


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sigma": 0}, ValueError, r"`sigma` is 0; expected a finite number above 0"),
        ({"sigma": -1.0}, ValueError, r"`sigma` is -1.0"),
        ({"sigma": (0.3, 0.1)}, ValueError, r"`sigma` is \(0.3, 0.1\); expected a range"),
        ({"sigma": (0.1, 0.2, 0.3)}, ValueError, r"`sigma` is \(0.1, 0.2, 0.3\)"),
        ({"noise": "pink"}, ValueError, r"`noise` is 'pink'; expected one of gaussian"),
        ({"distance": "l3"}, ValueError, r"`distance` is 'l3'; expected one of squared"),
        ({"scale": "log"}, ValueError, r"`scale` is 'log'; expected one of per_neuron"),
        ({"layers": "all"}, ValueError, r"`layers` is 'all'"),
        ({"layer_weights": (1.0, -1.0)}, ValueError, r"`layer_weights` is -1.0"),
        ({"weight": -0.5}, ValueError, r"`weight` is -0.5"),
        ({"probes": 0}, ValueError, r"`probes` is 0"),
        ({"sgima": 0.1}, TypeError, r"sgima"),
    ],
)
def test_wrong_options(options, error, message):
    with pytest.raises(error, match=message):
        SensitivityPenalty(**options)


def test_wrong_calls(net, x):
    with pytest.raises(
        ValueError, match=r"`layer_weights` has 3 entries; expected 2, one for each tapped layer: tanh, gelu"
    ):
        SensitivityPenalty(layer_weights=(1.0, 1.0, 1.0))(net, x)
    with pytest.raises(ValueError, match=r"`clip` is True and no `clip_values` are known"):
        SensitivityPenalty(clip=True)(net, x)
    with pytest.raises(TypeError, match=r"`x` is ndarray; expected a floating point torch.Tensor"):
        SensitivityPenalty()(net, x.numpy())
    with pytest.raises(ValueError, match=r"`x` has shape \(0, 6\)"):
        SensitivityPenalty()(net, x[:0])


def test_layer_weights_of_any_sequence(net, x):
    import numpy as np

    assert SensitivityPenalty(layer_weights=np.array([1.0, 2.0])) == SensitivityPenalty(layer_weights=[1, 2])
    with pytest.raises(TypeError, match=r"`layer_weights` is 1.0; expected a list of numbers"):
        SensitivityPenalty(layer_weights=1.0)


def of_each_layer(net, x, **options):
    return [SensitivityPenalty(layers=[name], **options)(net, x, generator=generator()) for name in ("1", "3")]


@pytest.mark.parametrize("options", [{}, {"distance": "absolute"}, {"scale": "relative"}, {"probes": 2}], ids=str)
def test_only_the_most_sensitive_layers_count(net, x, options):
    layers = of_each_layer(net, x, **options)
    assert layers[0] != layers[1]
    for top in (1, 0.3):
        value = SensitivityPenalty(top_layers=top, **options)(net, x, generator=generator())
        assert torch.isclose(value, max(layers), rtol=1e-12)
        found = torch.autograd.grad(value, list(net.parameters()), allow_unused=True, materialize_grads=True)
        wanted = torch.autograd.grad(
            max(layers), list(net.parameters()), allow_unused=True, materialize_grads=True, retain_graph=True
        )
        assert all(torch.allclose(one, other) for one, other in zip(found, wanted, strict=True))
    for top in (2, 0.6):
        value = SensitivityPenalty(top_layers=top, **options)(net, x, generator=generator())
        assert torch.equal(value, SensitivityPenalty(**options)(net, x, generator=generator()))


def test_the_choice_of_layers_is_by_sensitivity_and_their_weight_is_given(net, x):
    layers = of_each_layer(net, x)
    weights = (0.5, 3.0)
    wanted = max(zip(layers, weights, strict=True))
    value = SensitivityPenalty(top_layers=1, layer_weights=weights)(net, x, generator=generator())
    assert torch.isclose(value, wanted[0] * wanted[1])
    # Scaling the layers' activations changes which is the most sensitive, but not which is relative to its size.
    chosen = []
    for scale in ("per_neuron", "relative"):
        for factor in (1e-3, 1e3):
            scaled = nn.Sequential(
                *net[:2], Scale(factor), nn.Linear(8, 5, bias=False), nn.Tanh(), nn.Linear(5, 2)
            ).double()
            with torch.no_grad():
                scaled[3].weight.copy_(net[2].weight / factor)
            penalty = SensitivityPenalty(top_layers=1, scale=scale, layers=["2", "4"], layer_weights=(0.0, 1.0))
            chosen.append(bool(penalty(scaled, x) > 0))
    assert chosen[:2] == [True, False]
    assert chosen[2] == chosen[3]


class Scale(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


def test_numbers_of_layers_that_cannot_be(net, x):
    for wrong, error in ((0, ValueError), (1.0, ValueError), (0.0, ValueError), (-2, ValueError), (True, TypeError)):
        with pytest.raises(error, match=r"`top_layers` is"):
            SensitivityPenalty(top_layers=wrong)
    with pytest.raises(ValueError, match=r"`top_layers` is 3; expected at most 2, the tapped layers: tanh, gelu"):
        SensitivityPenalty(top_layers=3)(net, x)


def test_a_share_of_the_layers_is_not_rounded_past_a_whole_number():
    for share, layers, expected in ((0.28, 25, 7), (0.56, 25, 14), (0.5, 3, 2), (0.01, 3, 1)):
        assert SensitivityPenalty(top_layers=share)._penalised(layers) == expected
