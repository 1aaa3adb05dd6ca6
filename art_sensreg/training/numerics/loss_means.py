"""From the losses of batches to that of all rows, whatever the batches are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def adds_up(loss: Any, logits: torch.Tensor, y: torch.Tensor) -> bool:
    """
    Tell whether the loss of a batch is the sum of its rows' losses, and not their mean.

    :param loss: The loss: its `reduction` tells, or else whether every row twice is twice the loss.
    :param logits: Some logits, `(n, C)`.
    :param y: Their labels.
    :return: True for a sum.

    Example:
    >>> from art_sensreg.training.numerics.loss_means import adds_up
    >>> logits, y = torch.rand(4, 3), torch.tensor([0, 1, 2, 0])
    >>> adds_up(nn.CrossEntropyLoss(reduction="sum"), logits, y)
    True
    >>> adds_up(lambda z, t: nn.functional.cross_entropy(z, t), logits, y)
    False
    """
    reduction = getattr(loss, "reduction", None)
    if isinstance(reduction, str):
        return reduction == "sum"
    once = loss(logits, y)
    try:
        twice = loss(torch.cat([logits, logits]), torch.cat([y, y]))
    except Exception:  # noqa: BLE001 - one that also goes by what a hook has kept takes the rows of a pass only
        return False
    return bool((twice - 2 * once).abs() < 1e-3 * once.abs())


def divisor(loss: Any, y: torch.Tensor) -> torch.Tensor | float:
    """
    What a loss divides its sum over the rows by, if it is a mean.

    :param loss: The loss.
    :param y: Labels of a batch.
    :return: The number of rows; of class weights, the sum of the rows' weights.

    Example:
    >>> from art_sensreg.training.numerics.loss_means import divisor
    >>> divisor(nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0])), torch.tensor([0, 1, 1])).item()
    7.0
    """
    if not isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss)) or y.ndim != 1 or y.is_floating_point():
        return float(len(y))
    if loss.weight is None and loss.ignore_index < 0:
        return float(len(y))
    counted = y != loss.ignore_index
    if loss.weight is None:
        return counted.sum()
    return (loss.weight[torch.where(counted, y, 0)] * counted).sum()
