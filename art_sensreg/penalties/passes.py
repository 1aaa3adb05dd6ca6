"""
One forward pass over several branches of a batch: the clean rows `x` and noisy copies `x + s*xi`.

Stacking the branches into one batch costs less than separate passes, but some layers couple the rows of a batch or draw
their own randomness. Inside :func:`forward_branches` they treat the clean branch as if it were alone:

- **BatchNorm in training mode** takes its statistics, and updates its running ones, from the clean rows only; noisy
  rows are normalised with the clean statistics. Each row's output is then a function of that row at fixed statistics,
  and its sensitivity is a property of the network and not of the other rows.
- **Dropout** uses one mask for all branches: otherwise the masks' difference, divided by `s^2`, drowns the sensitivity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from art_sensreg.penalties.taps import ActivationTaps, Layers, TapPlan

_DROPOUTS = {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, torch.dropout}


@dataclass
class Branch:
    """What one branch of the pass gave: its inputs, logits `(n, C)` and, per layer selection, the activations."""

    inputs: torch.Tensor
    logits: torch.Tensor
    activations: list[list[torch.Tensor]] = field(default_factory=list)


def couples_rows(model: nn.Module) -> bool:
    """
    Tell whether a BatchNorm layer uses the statistics of the batch as the model stands now.

    :param model: Any `nn.Module`.
    :return: True if some BatchNorm is in training mode or keeps no running statistics.

    Example:
    >>> from art_sensreg.penalties.passes import couples_rows
    >>> couples_rows(nn.BatchNorm1d(2)), couples_rows(nn.BatchNorm1d(2).eval())
    (True, False)
    """
    return any(
        isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)
        for module in model.modules()
    )


def forward_branches(
    model: nn.Module,
    inputs: Sequence[torch.Tensor],
    selections: Sequence[tuple[Layers, TapPlan]] = (),
    update_statistics: bool = True,
) -> list[Branch]:
    """
    Run one forward pass over all branches and read the chosen activations of each.

    :param model: Module from `(n, ...)` inputs to `(n, C)` logits.
    :param inputs: The branches, each of shape `(n, ...)`; the first is the clean one.
    :param selections: Layer selections, each with its plan (see `taps.plan_taps`).
    :param update_statistics: Whether BatchNorm's running statistics may move. False when a penalty is only looked at.
    :return: One :class:`Branch` for each input, in order.
    :raises RuntimeError: If the model overwrites a tapped activation that it left alone in the trial run.

    Example:
    >>> from art_sensreg.penalties.passes import forward_branches
    >>> clean, noisy = forward_branches(nn.Linear(3, 2), [torch.zeros(4, 3), torch.ones(4, 3)])
    >>> clean.logits.shape, noisy.logits.shape
    (torch.Size([4, 2]), torch.Size([4, 2]))
    """
    rows = len(inputs[0])
    taps = [ActivationTaps(model, layers, plan.clone) for layers, plan in selections]
    contexts: list[TorchFunctionMode] = [*taps]
    if len(inputs) > 1 or not update_statistics:
        contexts.append(CleanBranchRules(rows, len(inputs), update_statistics))
    counters = [] if update_statistics else _batch_counters(model)
    try:
        with ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context)
            logits = model(inputs[0] if len(inputs) == 1 else torch.cat(list(inputs)))
    finally:
        for counter, value in counters:
            counter.copy_(value)
    if any(tap.overwritten for tap in taps):
        raise RuntimeError("The model overwrites a tapped activation in training mode only; name other `layers`.")
    branches = [Branch(x, z) for x, z in zip(inputs, torch.split(logits, rows), strict=True)]
    for tap in taps:
        parts = [torch.split(value, len(value) // len(inputs)) for _, value in tap.read(logits)]
        for index, branch in enumerate(branches):
            branch.activations.append([part[index] for part in parts])
    return branches


def _batch_counters(model: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """BatchNorm's `num_batches_tracked` moves outside of `F.batch_norm`, so it is put back by hand."""
    buffers = [m.num_batches_tracked for m in model.modules() if isinstance(m, _BatchNorm)]
    return [(buffer, buffer.clone()) for buffer in buffers if buffer is not None]


class CleanBranchRules(TorchFunctionMode):
    """BatchNorm and dropout as the module's docstring says, by intercepting their functional forms."""

    def __init__(self, rows: int, branches: int, update_statistics: bool) -> None:
        super().__init__()
        self.rows = rows
        self.branches = branches
        self.update_statistics = update_statistics

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm:
            return self._batch_norm(*args, **kwargs)
        if func in _DROPOUTS and self.branches > 1:
            return self._dropout(func, *args, **kwargs)
        return func(*args, **kwargs)

    def _batch_norm(
        self,
        input: torch.Tensor,
        running_mean: torch.Tensor | None,
        running_var: torch.Tensor | None,
        weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> torch.Tensor:
        if not training:
            return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
        clean = input[: len(input) // self.branches]
        count = clean.numel() // clean.shape[1]
        if count < 2:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {clean.shape}.")
        var, mean = torch.var_mean(clean, dim=[0, *range(2, input.ndim)], correction=0)
        if self.update_statistics and running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(mean.detach().to(running_mean.dtype), momentum)
                running_var.lerp_(var.detach().to(running_var.dtype) * (count / (count - 1)), momentum)
        scale = torch.rsqrt(var + eps) if weight is None else torch.rsqrt(var + eps) * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        shape = [1, -1] + [1] * (input.ndim - 2)
        return torch.addcmul(shift.view(shape), input, scale.view(shape))

    def _dropout(
        self, func: Callable[..., torch.Tensor], input: torch.Tensor, p: float = 0.5, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        training = kwargs.get("training", kwargs.get("train", args[0] if args else True))
        if not training or p == 0 or len(input) % (self.rows * self.branches):
            return func(input, p, *args, **kwargs)
        devices = [input.device] if input.is_cuda else []
        outputs = []
        for index, part in enumerate(torch.split(input, len(input) // self.branches)):
            # The first branch moves the random state as a plain pass would; the others replay its draws.
            if index == 0:
                state = torch.cuda.get_rng_state(input.device) if devices else torch.get_rng_state()
                outputs.append(func(part.clone(), p, *args, **kwargs))
                continue
            with torch.random.fork_rng(devices=devices):
                if devices:
                    torch.cuda.set_rng_state(state, input.device)
                else:
                    torch.set_rng_state(state)
                outputs.append(func(part.clone(), p, *args, **kwargs))
        return torch.cat(outputs)
