"""The written gradient against autograd's own, and the mean against its formula."""

import pytest
import torch

from art_sensreg.penalties.forward.distances import pair_distance, paired_distance, plain_distance

CASES = [
    (rows, starts, n, absolute, detach)
    for rows, starts, n in [(4, [4], 8), (3, [5, 8], 11), (2, [6], 8), (4, [4, 8], 12)]
    for absolute in (False, True)
    for detach in (False, True)
]


@pytest.mark.parametrize(("rows", "starts", "n", "absolute", "detach"), CASES)
def test_value_and_gradient(rows, starts, n, absolute, detach):
    whole = torch.randn(n, 3, 2, dtype=torch.float64, requires_grad=True)
    value = paired_distance(whole, rows, starts, absolute, detach)
    parts = [whole[start : start + rows] - whole[:rows] for start in starts]
    expected = torch.stack([part.abs().mean() if absolute else part.pow(2).mean() for part in parts]).mean()
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    (gradient,) = torch.autograd.grad(3 * value, whole)
    (plain,) = torch.autograd.grad(3 * plain_distance(whole, rows, tuple(starts), absolute, detach), whole)
    assert torch.allclose(gradient, plain, atol=1e-14)


def test_it_can_be_differentiated_twice():
    whole = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: paired_distance(w, 3, [3]), whole)
    assert torch.autograd.gradgradcheck(lambda w: paired_distance(w.pow(3), 3, [3]), whole)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_summed_in_float32(dtype):
    whole = torch.randn(200, 500).to(dtype).requires_grad_()
    value = paired_distance(whole, 100, [100])
    assert value.dtype == torch.float32
    exact = (whole.double()[100:] - whole.double()[:100]).pow(2).mean()
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)
    value.backward()
    assert whole.grad.dtype == dtype


def test_channels_last():
    whole = torch.randn(8, 3, 5, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    (gradient,) = torch.autograd.grad(paired_distance(whole, 4, [4]), whole)
    plain = whole.detach().contiguous().requires_grad_()
    assert torch.allclose(gradient, torch.autograd.grad(paired_distance(plain, 4, [4]), plain)[0], atol=1e-8)


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("detach", [False, True])
def test_the_distance_of_two_tensors_is_that_of_their_stack(absolute, detach):
    whole = torch.randn(8, 3, 2, dtype=torch.float64, requires_grad=True)
    stacked = paired_distance(whole, 4, [4], absolute, detach)
    apart = pair_distance(whole[4:], whole[:4], absolute, detach)
    assert apart.item() == pytest.approx(stacked.item(), rel=1e-12)
    (expected,), (found,) = (torch.autograd.grad(3 * value, whole) for value in (stacked, apart))
    assert torch.allclose(found, expected, atol=1e-14)


def test_the_distance_of_two_tensors_can_be_differentiated_twice():
    one, other = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradgradcheck(lambda a, b: pair_distance(a.pow(3), b), (one, other))
