"""
BatchNorm in training mode for a stack of clean and noisy rows: statistics of the clean rows only, for all rows.

Each row's output is then a function of that row at fixed statistics. The gradient of a loss flows through the
statistics, as in plain training; a derivative *by the input*, of which a penalty is made, does not
(:func:`fixed_statistics`), or it would leak from each row to all others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

# Not a context variable: on a GPU the backward pass runs in a thread of its own.
_fixed_depth = 0


@contextmanager
def fixed_statistics() -> Iterator[None]:
    """Inside, `torch.autograd.grad` takes the statistics of the clean rows for constants."""
    global _fixed_depth
    _fixed_depth += 1
    try:
        yield
    finally:
        _fixed_depth -= 1


def statistics(clean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Mean and (biased) variance of each channel; several times as fast as `torch.var_mean` on images on the CPU.

    :param clean: `(n, channels, ...)`.
    :return: Two tensors of shape `(channels,)`, float32 at least.

    Example:
    >>> from art_sensreg.penalties.batch_norm import statistics
    >>> statistics(torch.tensor([[1.0], [3.0]]))
    (tensor([2.]), tensor([1.]))
    """
    wide = clean.float() if clean.itemsize < 4 else clean
    count = wide.numel() // wide.shape[1]
    mean = _channel_sum(wide) / count
    centred = wide - _shaped(mean, wide)
    # Where a graph is wanted the square itself; the norm makes no temporary.
    if centred.ndim > 2 and not torch.is_grad_enabled():
        squares = torch.linalg.vector_norm(centred, dim=tuple(range(2, centred.ndim))).square().sum(0)
    else:
        squares = _channel_sum(centred.square())
    return mean, squares / count


def normalise(
    input: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, clean_rows: int, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Normalise all rows with the statistics of the first ones.

    :param input: `(n, channels, ...)`.
    :param weight: `(channels,)`, or None for ones.
    :param bias: `(channels,)`, or None for zeros.
    :param clean_rows: How many of the first rows are clean.
    :param eps: Added to the variance.
    :return: The output, and mean and variance of the clean rows, without a graph. Differentiable twice.

    Example:
    >>> from art_sensreg.penalties.batch_norm import normalise
    >>> output, mean, variance = normalise(torch.tensor([[1.0], [3.0], [5.0]]), None, None, clean_rows=2, eps=0.0)
    >>> output.flatten().tolist()
    [-1.0, 1.0, 3.0]
    """
    kind = torch.float32 if input.itemsize < 4 else input.dtype
    channels = input.shape[1]
    scale = torch.ones(channels, dtype=kind, device=input.device) if weight is None else weight
    shift = torch.zeros(channels, dtype=kind, device=input.device) if bias is None else bias
    output, mean, variance = _CleanBatchNorm.apply(input, scale, shift, clean_rows, eps)
    return output, mean, variance


def _shaped(per_channel: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return per_channel.view(1, -1, *[1] * (like.ndim - 2))


def _channel_sum(value: torch.Tensor) -> torch.Tensor:
    return value.flatten(2).sum(2).sum(0) if value.ndim > 2 else value.sum(0)


class _CleanBatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, clean_rows: int, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        mean, variance = statistics(input[:clean_rows])
        scale = torch.rsqrt(variance + eps) * weight
        wide = input.float() if input.itemsize < 4 else input
        output = torch.addcmul(_shaped(bias - mean * scale, wide), wide, _shaped(scale, wide)).to(input.dtype)
        ctx.save_for_backward(input, weight, mean, variance)
        ctx.clean_rows, ctx.eps = clean_rows, eps
        ctx.mark_non_differentiable(mean, variance)
        return output, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        input, weight, mean, variance = ctx.saved_tensors
        rows, again = ctx.clean_rows, torch.is_grad_enabled()
        wide, gradient = (value.float() if value.itemsize < 4 else value for value in (input, gradients[0]))
        if again:  # the second derivative needs to know that the statistics depend on the input
            mean, variance = statistics(wide[:rows])
        inverse = torch.rsqrt(variance + ctx.eps)
        by_input = gradient * _shaped(weight * inverse, wide)
        if again and _fixed_depth:
            return by_input.to(input.dtype), None, None, None, None
        by_bias = _channel_sum(gradient)
        by_weight = (_channel_sum(gradient * wide) - mean * by_bias) * inverse
        clean = wide[:rows]
        count = clean.numel() // clean.shape[1]
        slope = -weight * inverse.square() * by_weight / count
        level = -weight * inverse * by_bias / count - slope * mean
        through = torch.addcmul(_shaped(level, wide), clean, _shaped(slope, wide))
        if again:
            by_input = torch.cat([by_input[:rows] + through, by_input[rows:]])
        else:
            by_input[:rows].add_(through)
        return by_input.to(input.dtype), by_weight, by_bias, None, None
