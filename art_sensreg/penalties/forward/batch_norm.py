"""
BatchNorm in training mode for a stack of clean and perturbed examples: the statistics of the clean ones, for all.

Each example's output is then a function of that example at fixed statistics. The gradient of a loss flows through the
statistics, as in plain training. A gradient *with respect to the input*, of which a penalty is made, must not
(:meth:`StatisticsGradient.stopped`): it would leak from each example to all others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from art_sensreg.utils.precision import at_least_float32

Running = tuple[torch.Tensor, torch.Tensor]


class StatisticsGradient:
    """
    Whether gradients flow through the batch statistics of one forward pass.

    The BatchNorms of the pass share it and look at it in their backward pass, which on a GPU runs in another thread.
    """

    def __init__(self) -> None:
        self.flows = True

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Inside, `torch.autograd.grad(..., create_graph=True)` takes the statistics for constants."""
        before, self.flows = self.flows, False
        try:
            yield
        finally:
            self.flows = before


@dataclass(frozen=True, kw_only=True)
class CleanStatistics:
    """
    How all examples are normalised with the statistics of the first `rows`, the clean ones. Running mean and variance,
    if there are any, move towards these by the momentum; `gradient` says whether gradients flow through the statistics.
    """

    rows: int
    eps: float
    running: Running | None = None
    momentum: float = 0.1
    gradient: StatisticsGradient = field(default_factory=StatisticsGradient)


def batch_norms(model: nn.Module) -> tuple[nn.Module, ...]:
    """The BatchNorm layers of a model."""
    return tuple(module for module in model.modules() if isinstance(module, _BatchNorm))


def uses_batch_statistics(norms: Iterable[Any]) -> bool:
    """Whether some BatchNorm layer normalises with the statistics of the batch, as it stands now."""
    return any(norm.training or norm.running_mean is None for norm in norms)


def statistics(clean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Mean and (biased) variance of each channel of `(n, channels, ...)`, in float32 at least.

    On the CPU several times as fast for images as `torch.var_mean`.
    """
    wide = at_least_float32(clean)
    count = wide.numel() // wide.shape[1]
    mean = _channel_sum(wide) / count
    centred = wide - _shaped(mean, wide)
    # Where a graph is wanted the square itself; the norm makes no temporary.
    if centred.ndim > 2 and not torch.is_grad_enabled():
        squares = torch.linalg.vector_norm(centred, dim=tuple(range(2, centred.ndim))).square().sum(0)
    else:
        squares = _channel_sum(centred.square())
    return mean, squares / count


def move_statistics(clean: torch.Tensor, running: Running | None, momentum: float) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`statistics` in one kernel, without a graph; running ones move on."""
    with torch.no_grad():
        wide = at_least_float32(clean)
        if running is not None and running[0].dtype != wide.dtype:  # the kernel wants one type
            mean, variance = torch.batch_norm_update_stats(wide, None, None, momentum)
            count = wide.numel() // wide.shape[1]
            running[0].lerp_(mean.to(running[0].dtype), momentum)
            running[1].lerp_(variance.to(running[1].dtype) * (count / (count - 1)), momentum)
            return mean, variance
        running_mean, running_var = running or (None, None)
        mean, variance = torch.batch_norm_update_stats(wide, running_mean, running_var, momentum)
    return mean, variance


def normalise(
    input: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, clean: CleanStatistics
) -> torch.Tensor:
    """Normalise all examples with the statistics of the first ones; differentiable twice."""
    output: torch.Tensor = _CleanBatchNorm.apply(input, *_affine(input, weight, bias), clean)
    return output


def normalise_alone(
    input: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, clean: CleanStatistics
) -> torch.Tensor:
    """
    Normalise a batch, all of whose rows are clean, by plain operations: penalties of the user's own may differentiate
    these in any way, in forward mode or by `torch.func` too.
    """
    mean, variance = statistics(input)
    if clean.running is not None:
        move_statistics(input, clean.running, clean.momentum)
    inverse = torch.rsqrt(variance + clean.eps)
    scale = inverse if weight is None else inverse * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    return torch.addcmul(_shaped(shift, input), input, _shaped(scale, input)).to(input.dtype)


def normalise_first(
    input: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, clean: CleanStatistics
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Normalise a batch with its own statistics, all of its rows being clean, and return these with their graph too: mean
    and (biased) variance of each channel. Differentiable twice.
    """
    output, mean, variance = _FirstBatchNorm.apply(input, *_affine(input, weight, bias), clean)
    return output, mean, variance


def normalise_again(
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    statistics: tuple[torch.Tensor, torch.Tensor],
    eps: float,
) -> torch.Tensor:
    """Normalise another batch with the mean and variance of :func:`normalise_first`; differentiable twice."""
    output: torch.Tensor = _RepeatedBatchNorm.apply(input, *_affine(input, weight, bias), eps, *statistics)
    return output


def _affine(
    input: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias as torch's kernels take them beside this input."""
    kind = torch.float32 if input.itemsize < 4 else input.dtype
    channels = input.shape[1]
    scale = torch.ones(channels, dtype=kind, device=input.device) if weight is None else weight.to(kind)
    shift = torch.zeros(channels, dtype=kind, device=input.device) if bias is None else bias.to(kind)
    return scale, shift


def _shaped(per_channel: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return per_channel.view(1, -1, *[1] * (like.ndim - 2))


def _channel_sum(value: torch.Tensor) -> torch.Tensor:
    return value.flatten(2).sum(2).sum(0) if value.ndim > 2 else value.sum(0)


class _CleanBatchNorm(torch.autograd.Function):
    """
    Few kernels: torch's own, those for fixed statistics, over all examples; then what flows through the statistics.

    With `x^ = (x - mean) / std` and the sums `b`, `w` of `g` and `g x^` over all examples (the gradients of bias and
    weight), the statistics of `n` clean values add `-(weight / std) (b + w x^) / n` to the gradient of a clean example.
    """

    @staticmethod
    def forward(
        ctx: Any, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, clean: CleanStatistics
    ) -> torch.Tensor:
        mean, variance = move_statistics(input[: clean.rows], clean.running, clean.momentum)
        ctx.save_for_backward(input, weight, mean, variance)
        ctx.clean = clean
        return torch.native_batch_norm(input, weight, bias, mean, variance, False, 0.0, clean.eps)[0]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        input, weight, mean, variance = ctx.saved_tensors
        if torch.is_grad_enabled():
            return (*_differentiable_backward(input, weight, gradients[0], ctx.clean), None)
        rows, eps = ctx.clean.rows, ctx.clean.eps
        none = mean.new_empty(0)  # as autograd passes them: some kernels for CUDA want a tensor
        by_input, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward(
            gradients[0], input, weight, mean, variance, none, none, False, eps, [True, True, True]
        )
        clean = input[:rows]
        through = torch.native_batch_norm(clean, by_weight, by_bias, mean, variance, False, 0.0, eps)[0]
        slope = _shaped(torch.rsqrt(variance + eps) * weight, input).to(input.dtype)
        by_input[:rows].addcmul_(through, slope, value=-clean.shape[1] / clean.numel())
        return by_input, by_weight, by_bias, None


def _differentiable_backward(
    input: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor, how: CleanStatistics
) -> tuple[torch.Tensor | None, ...]:
    """The same, made of operations that can be differentiated: the statistics depend on the input once more."""
    wide, gradient = at_least_float32(input), at_least_float32(gradient)
    clean = wide[: how.rows]
    mean, variance = statistics(clean)
    inverse = torch.rsqrt(variance + how.eps)
    by_input = gradient * _shaped(weight * inverse, wide)
    if not how.gradient.flows:
        return by_input.to(input.dtype), None, None
    by_bias = _channel_sum(gradient)
    by_weight = (_channel_sum(gradient * wide) - mean * by_bias) * inverse
    count = clean.numel() // clean.shape[1]
    slope = -weight * inverse.square() * by_weight / count
    level = -weight * inverse * by_bias / count - slope * mean
    through = torch.addcmul(_shaped(level, wide), clean, _shaped(slope, wide))
    by_input = torch.cat([by_input[: how.rows] + through, by_input[how.rows :]])
    return by_input.to(input.dtype), by_weight, by_bias


class _FirstBatchNorm(torch.autograd.Function):
    """
    Few kernels, as above: torch's own for a batch, whose statistics are outputs too. Through the mean of `n` values
    flows a gradient of `1 / n`, through their variance one of `2 (x - mean) / n`.
    """

    @staticmethod
    def forward(
        ctx: Any, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, clean: CleanStatistics
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        mean, variance = move_statistics(input, clean.running, clean.momentum)
        ctx.save_for_backward(input, weight, mean, variance)
        ctx.eps = clean.eps
        ctx.set_materialize_grads(False)
        return torch.native_batch_norm(input, weight, bias, mean, variance, False, 0.0, clean.eps)[0], mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        input, weight, mean, variance = ctx.saved_tensors
        gradient, by_mean, by_variance = gradients
        count = input.numel() // input.shape[1]
        found: tuple[torch.Tensor | None, ...] = (None, None, None)
        inverse = torch.rsqrt(variance + ctx.eps)
        if gradient is not None and torch.is_grad_enabled():
            normalised = (at_least_float32(input) - _shaped(mean, input)) * _shaped(inverse, input)
            wide = at_least_float32(gradient)
            by_weight, by_bias = _channel_sum(wide * normalised), _channel_sum(wide)
            centred = wide - _shaped(by_bias / count, wide) - normalised * _shaped(by_weight / count, wide)
            found = (centred * _shaped(weight * inverse, wide)).to(input.dtype), by_weight, by_bias
        elif gradient is not None:
            found = torch.ops.aten.native_batch_norm_backward(
                gradient, input, weight, None, None, mean, inverse, True, ctx.eps, [True, True, True]
            )
        if by_mean is not None or by_variance is not None:
            slope = torch.zeros_like(mean) if by_variance is None else by_variance * (2 / count)
            level = (0.0 if by_mean is None else by_mean / count) - slope * mean
            through = torch.addcmul(_shaped(level, input), at_least_float32(input), _shaped(slope, input))
            found = (through if found[0] is None else found[0] + through).to(input.dtype), *found[1:]
        return (*found, None)


class _RepeatedBatchNorm(torch.autograd.Function):
    """
    Few kernels: torch's own for fixed statistics. With the gradients `b`, `w` of bias and weight, that of the mean is
    `-weight / std b`, and that of the variance `-weight / (2 std^2) w`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        input: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        eps: float,
        *statistics: torch.Tensor,
    ) -> torch.Tensor:
        mean, variance = statistics
        ctx.save_for_backward(input, weight, mean, variance)
        ctx.eps = eps
        return torch.native_batch_norm(input, weight, bias, mean, variance, False, 0.0, eps)[0]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        input, weight, mean, variance = ctx.saved_tensors
        inverse = torch.rsqrt(variance + ctx.eps)
        scale = weight * inverse
        if torch.is_grad_enabled():
            wide = at_least_float32(gradients[0])
            by_input = (wide * _shaped(scale, wide)).to(input.dtype)
            by_bias = _channel_sum(wide)
            by_weight = (_channel_sum(wide * at_least_float32(input)) - mean * by_bias) * inverse
        else:
            none = mean.new_empty(0)
            by_input, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward(
                gradients[0], input, weight, mean, variance, none, none, False, ctx.eps, [True, True, True]
            )
        return by_input, by_weight, by_bias, None, -scale * by_bias, -0.5 * scale * inverse * by_weight
