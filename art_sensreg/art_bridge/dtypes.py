"""The floating point dtype that a model computes in, for torch and numpy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

# numpy has no bfloat16: a model in that type gets float32, which its wrapper converts.
_NUMPY: dict[torch.dtype, Any] = {
    torch.float16: np.float16,
    torch.bfloat16: np.float32,
    torch.float32: np.float32,
    torch.float64: np.float64,
}


def model_dtype(model: nn.Module) -> torch.dtype:
    """
    The floating point type that a model computes in.

    :param model: Any module.
    :return: The dtype of its first floating point parameter; float32 if it has none.

    Example:
    >>> from art_sensreg.art_bridge.dtypes import model_dtype
    >>> model_dtype(nn.Linear(2, 2).double())
    torch.float64
    """
    for module in walk(model):
        for parameter in module._parameters.values():
            if parameter is not None and parameter.is_floating_point():
                return parameter.dtype
    return torch.float32


def numpy_dtype(model: nn.Module) -> np.dtype:
    """
    The numpy type of a model's inputs.

    :param model: Any module.
    :return: float16, float32 or float64.
    :raises TypeError: If the model computes in a type that numpy does not have.

    Example:
    >>> from art_sensreg.art_bridge.dtypes import numpy_dtype
    >>> numpy_dtype(nn.Linear(2, 2))
    dtype('float32')
    """
    dtype = model_dtype(model)
    if dtype is torch.bfloat16 or dtype not in _NUMPY:
        raise TypeError(f"`model` computes in {dtype}; expected parameters in float16, float32 or float64.")
    kind: np.dtype = np.dtype(_NUMPY[dtype])
    return kind


def cast(x: Any, model: nn.Module) -> Any:
    """Images in the dtype of a model's inputs; an array of objects is returned unchanged."""
    dtype = model_dtype(model)
    if isinstance(x, torch.Tensor):
        return x.to(dtype)
    if x.dtype == object:
        return x
    return np.require(x, dtype=_NUMPY[dtype], requirements=["C", "W"])  # torch warns of memory that is not writable


def walk(model: nn.Module) -> Iterator[nn.Module]:
    """All modules, parents first, in order: a fraction of the cost of `model.modules()`, for what runs at each call."""
    waiting = [model]
    while waiting:
        module = waiting.pop()
        yield module
        if module._modules:
            waiting += [child for child in reversed(module._modules.values()) if child is not None]
