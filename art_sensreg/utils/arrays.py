"""Conversion of anything array-like to arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from art_sensreg.utils.checks import shown


def as_array(values: Any, name: str) -> np.ndarray:
    """
    An array on the CPU, of the same dtype, from an array, a tensor on any device, or nested lists.

    bfloat16, which numpy does not have, becomes float32. Rows of unequal length and masked values are a `ValueError`.
    """
    try:
        if isinstance(values, torch.Tensor):
            tensor = values.detach().cpu()
            values = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        masked, array = np.ma.is_masked(values), np.asarray(values)
    except Exception as error:  # a foreign object may raise anything
        raise ValueError(
            f"`{name}` cannot be read as an array ({shown(error)}); expected numbers in memory, in rows of equal shape."
        ) from error
    if masked:
        raise ValueError(f"`{name}` has masked values; expected an array in which all are known.")
    return array


def as_numbers(values: Any, name: str) -> np.ndarray:
    """The same, of real numbers only: anything else is a `TypeError`."""
    array = as_array(values, name)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"`{name}` has dtype {array.dtype}; expected an array of real numbers.")
    return array


def shape_or_type(value: Any) -> str:
    """What a model has returned, for a message: the shape of a tensor, or the class of anything else."""
    return f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
