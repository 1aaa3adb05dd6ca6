"""The nuclear norm of logit differences against numpy, eigenvalues, and the formula of its gradient."""

import math

import numpy as np
import pytest
import torch

from art_sensreg.penalties.nuclear_norm import mean_gram, nuclear_norm, root_gram_trace
from tests.penalties.helpers import generator


def of_matrix(matrix):
    return nuclear_norm(matrix, torch.zeros_like(matrix))


@pytest.mark.parametrize("shape", [(8, 3), (3, 8), (5, 1), (1, 6), (64, 10)])
def test_it_is_the_sum_of_the_singular_values(shape):
    first, second = torch.randn(2, *shape, dtype=torch.float64, generator=generator())
    first.requires_grad_(True)
    found, difference = nuclear_norm(first, second), (first - second).detach()
    assert found.item() == pytest.approx(np.linalg.norm(difference.numpy(), ord="nuc"), rel=1e-12)
    squares = torch.linalg.eigvalsh(difference.T @ difference).clamp_min(0)  # of a product of one rank the rest is 0
    assert found.item() == pytest.approx(squares.sqrt().sum().item(), rel=1e-6)
    u, _, v = torch.linalg.svd(difference, full_matrices=False)
    (gradient,) = torch.autograd.grad(found, first)
    assert torch.allclose(gradient, u @ v, atol=1e-10)
    assert torch.autograd.gradcheck(nuclear_norm, (first, second.requires_grad_()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_repeated_and_vanishing_singular_values_have_the_smallest_subgradient(dtype):
    orthogonal = torch.linalg.qr(torch.randn(6, 6, dtype=dtype, generator=generator())).Q
    for values in ([2.0, 2.0, 2.0], [2.0, 0.0, 0.0], [1e-20, 1e-20, 0.0], [0.0, 0.0, 0.0]):
        scaled = torch.tensor(values, dtype=dtype)
        given = (orthogonal[:, :3] * scaled).requires_grad_()
        value = of_matrix(given)
        (gradient,) = torch.autograd.grad(value, given)
        assert torch.isclose(value, scaled.sum(), rtol=1e-5)
        assert torch.allclose(gradient, orthogonal[:, :3] * (scaled > 0), atol=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_becomes_nan_and_no_error_of_lapack(value):
    given = torch.randn(4, 3, generator=generator())
    given[1, 2] = value
    assert of_matrix(given).isnan()


def test_half_precision_is_computed_in_float32():
    logits = torch.randn(6, 4, generator=generator()).bfloat16()
    found = of_matrix(logits)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(of_matrix(logits.double()).item(), rel=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert of_matrix(logits.float()).item() == pytest.approx(found.item(), rel=1e-6)


def test_a_second_derivative_is_refused():
    given = torch.randn(4, 3, generator=generator()).requires_grad_()
    with pytest.raises(RuntimeError, match="can be differentiated once"):
        torch.autograd.grad(of_matrix(given), given, create_graph=True)


def test_parts_need_to_exchange_the_gram_matrix_only():
    whole = torch.randn(9, 4, dtype=torch.float64, generator=generator()).requires_grad_()
    parts, sizes = whole.split([5, 3, 1]), (5, 3, 1)
    gram = sum(mean_gram(part) * size / 9 for part, size in zip(parts, sizes, strict=True))
    value = sum(root_gram_trace(part, gram) * size / 9 for part, size in zip(parts, sizes, strict=True))
    wanted = of_matrix(whole) / 3
    assert torch.isclose(value, wanted)
    (found,), (direct,) = (torch.autograd.grad(z, whole) for z in (value, wanted))
    assert torch.allclose(found, direct)
