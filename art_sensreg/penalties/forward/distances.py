"""
The distance between stacked activations, with a gradient that is written once.

Written in plain torch, the gradient of `mean((b - a)**2)` for two halves `a`, `b` of one tensor costs a temporary for
each half, a tensor of zeros for each slice and their sum. Here it is one pass over one tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from art_sensreg.utils.precision import at_least_float32


def paired_distance(
    whole: torch.Tensor, rows: int, starts: Sequence[int], absolute: bool = False, detach_clean: bool = False
) -> torch.Tensor:
    """
    Mean squared (or absolute) difference between perturbed examples and their clean ones, all in one tensor.

    The first `rows` of `whole` are clean; block `start : start + rows` belongs to them, for each of `starts`. 0-d, in
    float32 at least, and differentiable twice.
    """
    value: torch.Tensor = _PairedDistance.apply(whole, rows, tuple(starts), absolute, detach_clean)
    return value


def plain_distance(
    whole: torch.Tensor, rows: int, starts: tuple[int, ...], absolute: bool, detach_clean: bool
) -> torch.Tensor:
    """The same by torch's own operations: for double backward."""
    wide = at_least_float32(whole)
    clean = wide[:rows].detach() if detach_clean else wide[:rows]
    differences = torch.stack([wide[start : start + rows] - clean for start in starts])
    return differences.abs().mean() if absolute else differences.pow(2).mean()


def pair_distance(
    noisy: torch.Tensor, clean: torch.Tensor, absolute: bool = False, detach_clean: bool = False
) -> torch.Tensor:
    """:func:`paired_distance` of two tensors of the same shape, from passes of their own."""
    value: torch.Tensor = _PairDistance.apply(noisy, clean.detach() if detach_clean else clean, absolute)
    return value


class _PairDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, noisy: torch.Tensor, clean: torch.Tensor, absolute: bool) -> torch.Tensor:
        difference = at_least_float32(noisy) - at_least_float32(clean)
        ctx.save_for_backward(noisy, clean, difference)
        ctx.absolute = absolute
        flat = difference.reshape(-1)
        return (flat.abs().sum() if absolute else torch.dot(flat, flat)) / flat.numel()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        noisy, clean, difference = ctx.saved_tensors
        if torch.is_grad_enabled():  # differentiated twice: by torch's own operations
            difference = at_least_float32(noisy) - at_least_float32(clean)
        direction = torch.sign(difference) if ctx.absolute else difference
        factor = gradients[0] * ((1 if ctx.absolute else 2) / difference.numel())
        by_noisy = (direction * factor).to(noisy.dtype)
        return by_noisy, -by_noisy if ctx.needs_input_grad[1] else None, None


class _PairedDistance(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, whole: torch.Tensor, rows: int, starts: tuple[int, ...], absolute: bool, detach_clean: bool
    ) -> torch.Tensor:
        # Sums in float32: differences of half precision have lost enough bits already.
        wide = at_least_float32(whole)
        differences = [wide[start : start + rows] - wide[:rows] for start in starts]
        ctx.save_for_backward(whole, *differences)
        ctx.arguments = (rows, starts, absolute, detach_clean)
        sums = [d.abs().sum() if absolute else torch.dot(d.reshape(-1), d.reshape(-1)) for d in differences]
        total = sums[0] if len(sums) == 1 else torch.stack(sums).sum()
        return total / (len(starts) * differences[0].numel())

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        whole, *differences = ctx.saved_tensors
        rows, starts, absolute, detach_clean = ctx.arguments
        (gradient,) = gradients
        if torch.is_grad_enabled():
            value = plain_distance(whole, *ctx.arguments)
            (by_whole,) = torch.autograd.grad(value, whole, gradient, create_graph=True)
            return by_whole, None, None, None, None
        factor = gradient * ((1 if absolute else 2) / (len(starts) * differences[0].numel()))
        filled = not detach_clean and rows * (1 + len(starts)) == len(whole)
        by_whole = torch.empty_like(whole) if filled else torch.zeros_like(whole)
        for index, (start, difference) in enumerate(zip(starts, differences, strict=True)):
            noisy = by_whole[start : start + rows]
            direction = torch.sign(difference) if absolute else difference
            if noisy.dtype == direction.dtype:
                torch.mul(direction, factor, out=noisy)
            else:
                noisy.copy_(direction * factor)
            if not detach_clean:
                clean = by_whole[:rows]
                torch.neg(noisy, out=clean) if index == 0 else clean.sub_(noisy)
        return by_whole, None, None, None, None
