"""The exponential moving average of the weights."""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class WeightAverage(AveragedModel):
    """
    An exponential moving average of a model's weights and buffers, which begins with their first values. Torch's own
    copies its counter of the steps to the device in each of them, for which the host waits.

    With a warm-up the decay of step `t` (from 0) is at most `(1 + t) / (10 + t)`, as Gowal et al. 2020 (arXiv
    2010.03593) average: else a run of fewer steps than the average is long would return little but its first weights.
    """

    def __init__(self, model: nn.Module, decay: float, warmup: bool = False) -> None:
        super().__init__(model, use_buffers=True)
        self._decay, self._warmup = decay, warmup

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take the present weights of a model into the average."""
        own = chain(self.module.parameters(), self.module.buffers())
        groups: dict[tuple[torch.device, torch.dtype], tuple[list[torch.Tensor], list[torch.Tensor]]] = {}
        for average, value in zip(own, chain(model.parameters(), model.buffers()), strict=True):
            averages, values = groups.setdefault((average.device, average.dtype), ([], []))
            averages.append(average.detach())
            values.append(value.detach())
        done = int(self.n_averaged)  # on the CPU, wherever the model is
        move = get_ema_multi_avg_fn(min(self._decay, (1 + done) / (10 + done)) if self._warmup else self._decay)
        for averages, values in groups.values():
            if done:
                move(averages, values, self.n_averaged)
            else:
                torch._foreach_copy_(averages, values)
        self.n_averaged += 1
