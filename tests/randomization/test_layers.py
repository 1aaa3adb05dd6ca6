"""Random layers: where the noise is, how large it is, and what is learned."""

import pytest
import torch
from torch import nn

from art_sensreg.randomization import randomize
from tests.randomization.models import KINDS, functional_model


def mean_of_draws(model, x, draws=3000):
    with torch.no_grad():
        outputs = torch.stack([model(x) for _ in range(draws)])
    return outputs.mean(0), outputs.std(0)


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
def test_layers_of_all_kinds_agree_with_the_plain_ones_when_noise_is_small(kind, layer, shape):
    torch.manual_seed(0)
    plain = layer()
    options = {"rse": {"first_std": 1e-6}, "bayesian": {"initial_std": 1e-6}, "pni": {"initial_alpha": 1e-6}}[kind]
    random = randomize(plain, kind=kind, **options)
    x = torch.rand(shape, requires_grad=True)
    assert torch.allclose(random(x), plain(x), atol=1e-3)
    (gradient,) = torch.autograd.grad(random(x).pow(2).sum(), x, create_graph=True)
    gradient.pow(2).sum().backward()  # double backward
    assert all(torch.isfinite(p.grad).all() for p in random.parameters() if p.grad is not None)
