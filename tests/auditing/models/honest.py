"""Honest models of many kinds, on which the audit must report no failure: robust and not, sure and unsure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from art.estimators.classification import PyTorchClassifier

from art_sensreg.datasets import Dataset
from tests.auditing.models import honest_architectures, honest_training  # noqa: F401 - they fill the list
from tests.auditing.models.honest_base import HONEST

Honest = tuple[PyTorchClassifier, np.ndarray, np.ndarray]


def _to_255(digits: Dataset) -> Dataset:
    return replace(digits, x_train=digits.x_train * 255, x_test=digits.x_test * 255)


def _threes_and_eights(digits: Dataset) -> Dataset:
    parts: dict[str, np.ndarray] = {}
    for part in ("train", "test"):
        x, y = getattr(digits, f"x_{part}"), getattr(digits, f"y_{part}")
        kept = np.isin(y, (3, 8))
        parts |= {f"x_{part}": x[kept], f"y_{part}": (y[kept] == 8).astype(np.int64)}
    return replace(digits, **parts)


_DATA = {"grey_values_to_255": _to_255, "two_classes": _threes_and_eights}
_BUILT: dict[tuple[str, int], Honest] = {}


def honest_data(name: str, digits: Dataset) -> Dataset:
    """The digits as the model of that name takes them: all but two take them as they are."""
    return _DATA[name](digits) if name in _DATA else digits


def honest_model(name: str, digits: Dataset) -> Honest:
    """A trained model with the test images and labels that belong to it; each is trained once in a process."""
    key = (name, digits.crc32)  # a data set cannot be hashed, as `functools.cache` would need
    if key not in _BUILT:
        data = honest_data(name, digits)
        _BUILT[key] = (HONEST[name](data), data.x_test, data.y_test)
    return _BUILT[key]
