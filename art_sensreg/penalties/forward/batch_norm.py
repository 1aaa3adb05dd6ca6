"""
BatchNorm in training mode for a stack of clean and noisy rows: statistics of the clean rows only, for all rows.

Each row's output is then a function of that row at fixed statistics. The gradient of a loss flows through the
statistics, as in plain training; a derivative *by the input*, of which a penalty is made, does not
(:func:`fixed_statistics`), or it would leak from each row to all others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

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


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """
    Find the BatchNorm layers.

    :param model: Any `nn.Module`.
    :return: The layers.
    """
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def couples_rows(model: nn.Module, norms: Sequence[nn.Module] | None = None) -> bool:
    """
    Tell whether a BatchNorm layer uses the statistics of the batch as the model stands now.

    :param model: Any `nn.Module`.
    :param norms: Its BatchNorm layers, if they are known.
    :return: True if some BatchNorm is in training mode or keeps no running statistics.

    Example:
    >>> from art_sensreg.penalties.forward.batch_norm import couples_rows
    >>> couples_rows(nn.BatchNorm1d(2)), couples_rows(nn.BatchNorm1d(2).eval())
    (True, False)
    """
    return any(norm.training or norm.running_mean is None for norm in (batch_norms(model) if norms is None else norms))


def statistics(clean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Mean and (biased) variance of each channel; several times as fast as `torch.var_mean` on images on the CPU.

    :param clean: `(n, channels, ...)`.
    :return: Two tensors of shape `(channels,)`, float32 at least.

    Example:
    >>> from art_sensreg.penalties.forward.batch_norm import statistics
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
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    clean_rows: int,
    eps: float,
    running: tuple[torch.Tensor, torch.Tensor] | None = None,
    momentum: float = 0.1,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Normalise all rows with the statistics of the first ones.

    :param input: `(n, channels, ...)`.
    :param weight: `(channels,)`, or None for ones.
    :param bias: `(channels,)`, or None for zeros.
    :param clean_rows: How many of the first rows are clean.
    :param eps: Added to the variance.
    :param running: Running mean and variance, which move towards those of the clean rows; or None.
    :param momentum: How far they move.
    :return: The output, and mean and variance of the clean rows, without a graph. Differentiable twice.

    Example:
    >>> from art_sensreg.penalties.forward.batch_norm import normalise
    >>> output, mean, variance = normalise(torch.tensor([[1.0], [3.0], [5.0]]), None, None, clean_rows=2, eps=0.0)
    >>> output.flatten().tolist()
    [-1.0, 1.0, 3.0]
    """
    kind = torch.float32 if input.itemsize < 4 else input.dtype
    channels = input.shape[1]
    scale = torch.ones(channels, dtype=kind, device=input.device) if weight is None else weight.to(kind)
    shift = torch.zeros(channels, dtype=kind, device=input.device) if bias is None else bias.to(kind)
    output, mean, variance = _CleanBatchNorm.apply(input, scale, shift, clean_rows, eps, running, momentum)
    return output, mean, variance


def move_statistics(
    clean: torch.Tensor, running: tuple[torch.Tensor, torch.Tensor] | None, momentum: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    :func:`statistics` in one kernel, without a graph; running ones move on.

    :param clean: `(n, channels, ...)`.
    :param running: Running mean and variance, or None.
    :param momentum: How far they move.
    :return: Mean and (biased) variance.

    Example:
    >>> from art_sensreg.penalties.forward.batch_norm import move_statistics
    >>> running = torch.zeros(1), torch.ones(1)
    >>> move_statistics(torch.tensor([[1.0], [3.0]]), running, momentum=0.5), running
    ((tensor([2.]), tensor([1.])), (tensor([1.]), tensor([1.5000])))
    """
    with torch.no_grad():
        wide = clean.float() if clean.itemsize < 4 else clean
        if running is not None and running[0].dtype != wide.dtype:  # the kernel wants one type
            mean, variance = torch.batch_norm_update_stats(wide, None, None, momentum)
            count = wide.numel() // wide.shape[1]
            running[0].lerp_(mean.to(running[0].dtype), momentum)
            running[1].lerp_(variance.to(running[1].dtype) * (count / (count - 1)), momentum)
            return mean, variance
        running_mean, running_var = running or (None, None)
        mean, variance = torch.batch_norm_update_stats(wide, running_mean, running_var, momentum)
    return mean, variance


def _shaped(per_channel: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return per_channel.view(1, -1, *[1] * (like.ndim - 2))


def _channel_sum(value: torch.Tensor) -> torch.Tensor:
    return value.flatten(2).sum(2).sum(0) if value.ndim > 2 else value.sum(0)


class _CleanBatchNorm(torch.autograd.Function):
    """
    Few kernels: torch's own, those for fixed statistics, over all rows; then what flows through the statistics.

    With `x^ = (x - mean) / std` and the sums `b`, `w` of `g` and `g x^` over all rows (the gradients of bias and
    weight), the statistics of `n` clean values add `-(weight / std) (b + w x^) / n` to the gradient of a clean row.
    """

    @staticmethod
    def forward(
        ctx: Any,
        input: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        clean_rows: int,
        eps: float,
        running: tuple[torch.Tensor, torch.Tensor] | None,
        momentum: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        mean, variance = move_statistics(input[:clean_rows], running, momentum)
        output = torch.native_batch_norm(input, weight, bias, mean, variance, False, 0.0, eps)[0]
        ctx.save_for_backward(input, weight, mean, variance)
        ctx.clean_rows, ctx.eps = clean_rows, eps
        ctx.mark_non_differentiable(mean, variance)
        ctx.set_materialize_grads(False)  # two kernels that fill zeros
        return output, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if gradients[0] is None:
            return (None,) * 7
        input, weight, mean, variance = ctx.saved_tensors
        if torch.is_grad_enabled():
            found = _differentiable_backward(input, weight, gradients[0], ctx.clean_rows, ctx.eps)
        else:
            found = _backward(input, weight, mean, variance, gradients[0], ctx.clean_rows, ctx.eps)
        return (*found, None, None, None, None)


def _backward(
    input: torch.Tensor,
    weight: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
    gradient: torch.Tensor,
    rows: int,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    by_input, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward(
        gradient, input, weight, mean, variance, None, None, False, eps, [True, True, True]
    )
    clean = input[:rows]
    through = torch.native_batch_norm(clean, by_weight, by_bias, mean, variance, False, 0.0, eps)[0]
    slope = _shaped(torch.rsqrt(variance + eps) * weight, input).to(input.dtype)
    by_input[:rows].addcmul_(through, slope, value=-clean.shape[1] / clean.numel())
    return by_input, by_weight, by_bias


def _differentiable_backward(
    input: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor, rows: int, eps: float
) -> tuple[torch.Tensor | None, ...]:
    """The same, made of operations that can be differentiated: the statistics depend on the input once more."""
    wide, gradient = (value.float() if value.itemsize < 4 else value for value in (input, gradient))
    clean = wide[:rows]
    mean, variance = statistics(clean)
    inverse = torch.rsqrt(variance + eps)
    by_input = gradient * _shaped(weight * inverse, wide)
    if _fixed_depth:
        return by_input.to(input.dtype), None, None
    by_bias = _channel_sum(gradient)
    by_weight = (_channel_sum(gradient * wide) - mean * by_bias) * inverse
    count = clean.numel() // clean.shape[1]
    slope = -weight * inverse.square() * by_weight / count
    level = -weight * inverse * by_bias / count - slope * mean
    through = torch.addcmul(_shaped(level, wide), clean, _shaped(slope, wide))
    by_input = torch.cat([by_input[:rows] + through, by_input[rows:]])
    return by_input.to(input.dtype), by_weight, by_bias
