"""From the losses of batches to that of all examples, however they are divided into batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def adds_up(loss: Any, logits: torch.Tensor, y: torch.Tensor) -> bool:
    """
    Whether the loss of a batch is the sum of its examples' losses, and not their mean.

    The loss's `reduction` tells, or else whether each example twice gives twice the loss.
    """
    reduction = getattr(loss, "reduction", None)
    if isinstance(reduction, str):
        return reduction == "sum"
    once = loss(logits, y)
    try:
        twice = loss(torch.cat([logits, logits]), torch.cat([y, y]))
    except Exception:  # noqa: BLE001 - one that also goes by what a hook has kept takes the batch of that pass only
        return False
    return bool((twice - 2 * once).abs() < 1e-3 * once.abs())


def divisor(loss: Any, y: torch.Tensor) -> torch.Tensor | float:
    """What a loss that is a mean divides its sum by: the number of examples or, with class weights, their sum."""
    if not isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss)) or y.ndim != 1 or y.is_floating_point():
        return float(len(y))
    if loss.weight is None and loss.ignore_index < 0:
        return float(len(y))
    counted = y != loss.ignore_index
    if loss.weight is None:
        return counted.sum()
    return (loss.weight[torch.where(counted, y, 0)] * counted).sum()
