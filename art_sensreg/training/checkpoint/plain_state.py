"""What a model, loss or penalty keeps as plain attributes: a counter, a rising rate, a flag, a running mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from art_sensreg.training.checkpoint.codec import DTYPES

Values = dict[str, dict[str, Any]]

_PLAIN = (bool, int, float, str)
_OWN_OF_TORCH = frozenset(nn.Module().__dict__)
# Larger tensors that are neither weights nor buffers are taken for activations that were kept to be looked at.
_LARGEST = 2**16


def values_of(holders: Iterable[tuple[str, Mapping[str, Any]]]) -> Values:
    """Collect plain values, and small tensors without a gradient, among the attributes (`vars`) of named objects."""
    found = {
        name: {key: item for key, item in held.items() if key not in _OWN_OF_TORCH and _counts(item)}
        for name, held in holders
    }
    return {name: values for name, values in found.items() if values}


@torch.no_grad()
def load_values(holders: Iterable[tuple[str, dict[str, Any]]], stored: Values) -> None:
    """Restore what :func:`values_of` returned. Attributes that are missing, or something else by now, stay."""
    for name, held in holders:
        for key, value in stored.get(name, {}).items():
            own = held.get(key)
            if not _counts(own) or isinstance(own, torch.Tensor) is not isinstance(value, torch.Tensor):
                continue
            if not isinstance(own, torch.Tensor):
                held[key] = value
            elif own.shape == value.shape and own.is_contiguous():
                own.copy_(value)
            else:
                held[key] = value.to(own.device, copy=True)


def _counts(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        dense = value.layout is torch.strided and value.dtype in DTYPES and not (value.is_meta or value.is_inference())
        return dense and not value.requires_grad and value.numel() <= _LARGEST
    return type(value) in _PLAIN
