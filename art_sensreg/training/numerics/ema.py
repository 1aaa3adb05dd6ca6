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
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, use_buffers=True)
        self._move = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take the present weights of a model into the average."""
        own = chain(self.module.parameters(), self.module.buffers())
        groups: dict[tuple[torch.device, torch.dtype], tuple[list[torch.Tensor], list[torch.Tensor]]] = {}
        for average, value in zip(own, chain(model.parameters(), model.buffers()), strict=True):
            averages, values = groups.setdefault((average.device, average.dtype), ([], []))
            averages.append(average.detach())
            values.append(value.detach())
        begun = bool(self.n_averaged)  # on the CPU, wherever the model is
        for averages, values in groups.values():
            if begun:
                self._move(averages, values, self.n_averaged)
            else:
                torch._foreach_copy_(averages, values)
        self.n_averaged += 1
