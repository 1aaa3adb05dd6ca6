"""Arrays from whatever they come in."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from art_sensreg.utils.checks import shown


def as_array(values: Any, name: str) -> np.ndarray:
    """
    Read an array.

    :param values: An array, a torch tensor on any device, or nested lists.
    :param name: Name of the argument, for the messages.
    :return: Array on the CPU, of the same type; float32 of bfloat16, which numpy does not have.
    :raises ValueError: If rows are of unequal length, or values are masked.

    Example:
    >>> from art_sensreg.utils import as_array
    >>> as_array(torch.ones(2, dtype=torch.bfloat16, requires_grad=True), "x")
    array([1., 1.], dtype=float32)
    """
    try:
        if isinstance(values, torch.Tensor):
            tensor = values.detach().cpu()
            values = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        masked, array = np.ma.is_masked(values), np.asarray(values)
    except Exception as error:  # what is not ours may raise anything
        raise ValueError(
            f"`{name}` cannot be read as an array ({shown(error)}); expected numbers in memory, in rows of equal shape."
        ) from error
    if masked:
        raise ValueError(f"`{name}` has masked values; expected an array in which all are known.")
    return array


def as_numbers(values: Any, name: str) -> np.ndarray:
    """
    The same of real numbers only.

    :param values: An array of any byte order and strides, a torch tensor on any device, or nested lists.
    :param name: Name of the argument, for the messages.
    :return: Array on the CPU.
    :raises TypeError: If it is no array of real numbers.
    :raises ValueError: If rows are of unequal length, or values are masked.

    Example:
    >>> from art_sensreg.utils import as_numbers
    >>> as_numbers([[1, 2]], "x").shape
    (1, 2)
    """
    array = as_array(values, name)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"`{name}` has dtype {array.dtype}; expected an array of real numbers.")
    return array
