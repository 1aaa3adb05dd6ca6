"""GradDiv's terms against closed forms and brute force."""

import math

import numpy as np
import pytest
import torch

from art_sensreg.penalties.gradient_diversity import (
    concentration,
    mean_pairwise_cosine,
    mean_resultant_length,
    negative_log_volume,
    unit_gradients,
)


def units_of(samples, rows, d, seed=0, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(1, rows, d, generator=generator, dtype=torch.float64)
    own = torch.randn(samples, rows, d, generator=generator, dtype=torch.float64)
    return unit_gradients(common + spread * own)


def test_known_lengths():
    same = torch.ones(5, 2, 4)
    assert mean_resultant_length(unit_gradients(same)).tolist() == pytest.approx([1.0, 1.0])
    opposite = torch.tensor([[[1.0, 0.0]], [[-1.0, 0.0]]])
    assert mean_resultant_length(opposite).item() == 0.0
    isotropic = unit_gradients(torch.randn(64, 200, 100, generator=torch.Generator().manual_seed(0)))
    assert mean_resultant_length(isotropic).mean().item() == pytest.approx(1 / 8, rel=0.02)


def test_concentration_of_a_known_distribution():
    # In many dimensions a von Mises-Fisher mean length R gives kappa; the estimate is Banerjee's, to its own accuracy.
    for length, d in ((0.3, 10), (0.7, 64)):
        wanted = length * (d - length**2) / (1 - length**2)
        assert concentration(torch.tensor(length), d).item() == pytest.approx(wanted, rel=1e-6)
    # d = 3 has a closed form: R = coth(kappa) - 1/kappa.
    kappa = 5.0
    length = 1 / math.tanh(kappa) - 1 / kappa
    assert concentration(torch.tensor(length), 3).item() == pytest.approx(kappa, rel=0.1)


@pytest.mark.parametrize("length", [0.0, 0.9989, 0.9991, 1.0])
def test_concentration_is_finite_with_its_derivative(length):
    value = torch.tensor(length, requires_grad=True)
    found = concentration(value, 64)
    found.backward()
    assert torch.isfinite(found)
    assert torch.isfinite(value.grad)
    assert value.grad > 0


def test_pairwise_cosine_against_all_pairs_and_the_identity():
    units = units_of(6, 7, 5)
    pairs = [(units[i] * units[j]).sum(1) for i in range(6) for j in range(6) if i != j]
    assert torch.allclose(mean_pairwise_cosine(units), torch.stack(pairs).mean(0))
    length = mean_resultant_length(units)
    assert torch.allclose(mean_pairwise_cosine(units), (6 * length**2 - 1) / 5)


def test_volume_against_numpy():
    units = units_of(4, 3, 6)
    for row in range(3):
        gram = (units[:, row] @ units[:, row].T).numpy() + 0.2 * np.eye(4)
        sign, value = np.linalg.slogdet(gram)
        assert sign == 1
        assert negative_log_volume(units, 0.2)[row].item() == pytest.approx(-value, rel=1e-9)


def test_derivatives_of_the_terms():
    raw = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    for term in (
        lambda g: concentration(mean_resultant_length(unit_gradients(g)), 4),
        lambda g: mean_pairwise_cosine(unit_gradients(g)),
        lambda g: negative_log_volume(unit_gradients(g), 0.1),
    ):
        assert torch.autograd.gradcheck(term, (raw,))


def test_zero_and_tiny_gradients():
    gradients = torch.zeros(3, 2, 4, requires_grad=True)
    units = unit_gradients(gradients)
    assert torch.equal(units, torch.zeros(3, 2, 4))
    (mean_resultant_length(units).sum() + mean_pairwise_cosine(units).sum()).backward()
    assert torch.isfinite(gradients.grad).all()
    tiny = unit_gradients(torch.full((2, 1, 4), 1e-30))
    assert torch.allclose(tiny, torch.full((2, 1, 4), 0.5))
