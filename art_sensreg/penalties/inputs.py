"""Checks of what a penalty is called with."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from art_sensreg.utils import shown


def check_batch(model: Any, x: Any) -> None:
    """
    Check a model and a batch of inputs.

    :param model: What must be a module.
    :param x: What must be a floating point tensor `(n, ...)` with at least one row.
    :raises TypeError: If one of them is of a wrong type.
    :raises ValueError: If `x` has no rows.

    Example:
    >>> from art_sensreg.penalties.inputs import check_batch
    >>> check_batch(nn.Linear(3, 2), torch.zeros(0, 3))
    Traceback (most recent call last):
    ...
    ValueError: `x` has shape (0, 3); expected (n, ...) with n at least 1.
    """
    if not isinstance(model, nn.Module):
        hint = ": the `model` of a classifier" if hasattr(model, "predict") else ""
        raise TypeError(f"`model` is {shown(model)}; expected an nn.Module from inputs to logits{hint}.")
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        came = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
        raise TypeError(f"`x` is {came}; expected a floating point torch.Tensor of shape (n, ...).")
    if x.ndim < 2 or len(x) == 0:
        raise ValueError(f"`x` has shape {tuple(x.shape)}; expected (n, ...) with n at least 1.")
