"""The nuclear norm of logit differences against numpy, eigenvalues, and the formula of its gradient."""

import math

import numpy as np
import pytest
import torch

from art_sensreg.penalties.nuclear_norm import nuclear_norm


@pytest.mark.parametrize("shape", [(8, 3), (3, 8), (5, 1)])
def test_it_is_the_sum_of_the_singular_values(shape):
    first, second = torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    first.requires_grad_(True)
    found, difference = nuclear_norm(first, second), (first - second).detach()
    assert found.item() == pytest.approx(np.linalg.norm(difference.numpy(), ord="nuc"), rel=1e-12)
    squares = torch.linalg.eigvalsh(difference.T @ difference).clamp_min(0)  # of a product of one rank the rest is 0
    assert found.item() == pytest.approx(squares.sqrt().sum().item(), rel=1e-6)
    u, _, v = torch.linalg.svd(difference, full_matrices=False)
    (gradient,) = torch.autograd.grad(found, first)
    assert torch.allclose(gradient, u @ v, atol=1e-10)


def test_differences_that_are_zero_or_not_finite():
    zero = torch.zeros(4, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(nuclear_norm(zero, torch.zeros(4, 3)), zero)
    assert torch.isfinite(gradient).all()
    assert math.isnan(nuclear_norm(torch.full((4, 3), torch.inf), torch.zeros(4, 3)).item())


def test_half_precision_is_computed_in_float32():
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = nuclear_norm(logits, torch.zeros_like(logits))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(nuclear_norm(logits.double(), torch.zeros(6, 4)).item(), rel=1e-5)
