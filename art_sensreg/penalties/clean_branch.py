"""The rules by which layers treat the clean branch of a stacked batch as if it were alone; see `passes`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from art_sensreg.penalties.batch_norm import move_statistics, normalise, statistics
from art_sensreg.penalties.random_states import same_draws, torch_generator

_DROPOUTS = {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, torch.dropout}


class CleanBranchRules(TorchFunctionMode):
    """BatchNorm and dropout as the docstring of `passes` says, by intercepting their functional forms."""

    def __init__(
        self, sizes: Sequence[int], update_statistics: bool, per_row: bool = False, repeated: bool = False
    ) -> None:
        super().__init__()
        self.per_row, self.repeated = per_row, repeated
        self.sizes = sizes
        self.rows = sum(sizes)
        self.update_statistics = update_statistics
        self._statistics: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._next: Iterator[tuple[torch.Tensor, torch.Tensor]] | None = None

    def repeat(self) -> None:
        """Make the next pass normalise with the statistics of the first one, layer by layer."""
        self._next = iter(self._statistics)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm:
            return self._batch_norm(*args, **kwargs)
        if func in _DROPOUTS and len(self.sizes) > 1:
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
        rows = len(input) * self.sizes[0] // self.rows
        count = rows * input[0].numel() // input.shape[1]
        if count < 2:
            shape = input[:rows].shape
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {shape}.")
        running = None
        if self.update_statistics and running_mean is not None and running_var is not None:
            running = running_mean, running_var
        if self._next is not None:
            mean, variance = next(self._next)
        elif len(self.sizes) > 1 or self.per_row:
            output, _, _ = normalise(input, weight, bias, rows, eps, running, momentum)
            if self.repeated:  # the passes after this one need them with their graph
                self._statistics.append(statistics(input))
            return output
        else:
            mean, variance = statistics(input)
            self._statistics.append((mean, variance))
            if running is not None:
                move_statistics(input, running, momentum)
        scale = torch.rsqrt(variance + eps) if weight is None else torch.rsqrt(variance + eps) * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        per_channel = [1, -1] + [1] * (input.ndim - 2)
        return torch.addcmul(shift.view(per_channel), input, scale.view(per_channel)).to(input.dtype)

    def _dropout(
        self, func: Callable[..., torch.Tensor], input: torch.Tensor, p: float = 0.5, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        training = kwargs.get("training", kwargs.get("train", args[0] if args else True))
        if not training or p == 0 or len(input) % self.rows:
            return func(input, p, *args, **kwargs)
        sizes = [len(input) * size // self.rows for size in self.sizes]
        outputs = []
        with same_draws([torch_generator(input.device)]) as rewind:
            for part in torch.split(input, sizes):
                # Equal draws need equal shapes: a shorter branch is filled up, and cut again.
                filled = torch.cat([part, part.new_zeros(sizes[0] - len(part), *part.shape[1:])])
                outputs.append(func(filled, p, *args, **kwargs)[: len(part)])
                rewind()
        return torch.cat(outputs)
