"""What attacks are given: images and sizes, read and checked."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from art.attacks.attack import EvasionAttack

from art_sensreg.art_bridge.checks import clip_bounds
from art_sensreg.utils import as_numbers, check_number
from art_sensreg.utils.checks import check_known

# What float32 may round of images that were scaled in float64, in shares of the range.
TOLERANCE = 1e-6


def attack_images(x: Any, classifier: Any) -> np.ndarray:
    """
    Images to attack, in float32.

    :param x: Images `(n, *input_shape)` of any real type, in the user's units.
    :param classifier: ART classifier.
    :return: New float32 array; values that rounding has put a hair outside of `clip_values` are set to its end.
    :raises TypeError: If it is no array of real numbers.
    :raises ValueError: If the shape is wrong, a value is not finite, or one is outside of `clip_values`.

    Example:
    >>> from art.estimators.classification import PyTorchClassifier
    >>> from art_sensreg.attacks.base.inputs import attack_images
    >>> classifier = PyTorchClassifier(torch.nn.Identity(), torch.nn.CrossEntropyLoss(), (2,), 2, clip_values=(0, 255))
    >>> attack_images(np.array([[0, 255]], dtype=np.uint8), classifier)
    array([[  0., 255.]], dtype=float32)
    """
    images, shape = as_numbers(x, "x"), tuple(classifier.input_shape)
    if images.ndim != len(shape) + 1 or images.shape[1:] != shape:
        raise ValueError(f"`x` has shape {images.shape}; expected (n, {', '.join(map(str, shape))}).")
    with np.errstate(over="ignore"):  # what overflows is infinite, and refused
        images = np.array(images, dtype=np.float32, order="C")
    if not np.isfinite(images).all():
        bad = int((~np.isfinite(images).reshape(len(images), -1).all(axis=1)).sum())
        raise ValueError(f"`x` has NaN or infinite values in {bad} of {len(images)} images; expected finite ones.")
    if classifier.clip_values is None or not len(images):
        return images
    low, high = attack_range(classifier)
    slack = TOLERANCE * np.maximum(high - low, 1e-30)
    if (images < low - slack).any() or (images > high + slack).any():
        raise ValueError(
            f"`x` has values from {images.min():g} to {images.max():g}; expected [{low.min():g}, {high.max():g}], the "
            "classifier's `clip_values`: an attack would move what is outside by more than `eps`."
        )
    return np.clip(images, low, high, out=images)


def attack_range(classifier: Any) -> tuple[np.ndarray, np.ndarray]:
    """
    The range of images, as float32 arrays that broadcast against a batch.

    :param classifier: ART classifier, with `clip_values` (numbers, or arrays of one value a feature) or without.
    :return: Smallest and largest values; infinite without `clip_values`.
    :raises ValueError: If `clip_values` do not fit the images.

    Example:
    >>> from art.estimators.classification import PyTorchClassifier
    >>> from art_sensreg.attacks.base.inputs import attack_range
    >>> model, clip_values = torch.nn.Identity(), (np.zeros(2), np.array([1.0, 255.0]))
    >>> classifier = PyTorchClassifier(model, torch.nn.CrossEntropyLoss(), (1, 1, 2), 2, clip_values=clip_values)
    >>> attack_range(classifier)[1]
    array([[[  1., 255.]]], dtype=float32)
    """
    shape, clip = tuple(classifier.input_shape), classifier.clip_values
    if clip is None:
        return np.array(-np.inf, dtype=np.float32), np.array(np.inf, dtype=np.float32)
    bounds = [np.asarray(bound, dtype=np.float32) for bound in clip_bounds(clip, shape)]
    for bound in bounds:
        if bound.ndim > len(shape) or any(
            b not in (1, s) for b, s in zip(bound.shape[::-1], shape[::-1], strict=False)
        ):
            raise ValueError(
                f"`clip_values` has an array of shape {bound.shape}; expected numbers, or arrays of {math.prod(shape)} "
                f"values or of a shape that broadcasts against an image, {shape}."
            )
    return bounds[0], bounds[1]


def attack_number(name: str, value: Any, exclusive: bool = True) -> float:
    """
    A positive setting of an attack as a number.

    :param name: Name of the setting, for the messages.
    :param value: What came.
    :param exclusive: Whether 0 is refused.
    :return: The number.
    :raises TypeError: If it is no number: an array of one value a feature or an image, which ART's own PGD takes.
    :raises ValueError: If it is out of range.

    Example:
    >>> from art_sensreg.attacks.base.inputs import attack_number
    >>> attack_number("eps", np.float64(0.25))
    0.25
    """
    if isinstance(value, (np.ndarray, torch.Tensor)) and value.ndim:
        raise TypeError(
            f"`{name}` is an array of shape {tuple(value.shape)}; expected one number for all: ART's "
            "ProjectedGradientDescent takes one a feature or an image."
        )
    check_number(name, value, minimum=0.0, exclusive=exclusive)
    return float(value)


class CheckedAttack(EvasionAttack):
    """
    An ART attack that checks and normalises a setting whenever it changes; a refused change leaves it as it was.

    Subclasses name their settings in `attack_params`, check and normalise them in `_check_params`, and end their
    constructor with `_settle`.
    """

    _settled = False

    def set_params(self, **kwargs: Any) -> None:
        """
        Set several settings together.

        :param kwargs: Settings by name.
        :raises ValueError: If there is no such setting, or one is out of range; nothing has been changed then.
        :raises TypeError: If one is of a wrong type.
        """
        unknown = [name for name in kwargs if name not in self.attack_params]
        if unknown:
            check_known("set_params()", {unknown[0]: kwargs[unknown[0]]}, self.attack_params, ValueError)
        self._change(kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        if self._settled and name in self.attack_params:
            self._change({name: value})
        else:
            super().__setattr__(name, value)

    def _settle(self) -> None:
        """Check all settings; from now on every change is checked."""
        self._check_params()
        super().__setattr__("_settled", True)

    def _change(self, values: dict[str, Any]) -> None:
        before = dict(self.__dict__)
        self.__dict__["_settled"] = False
        try:
            for name, value in values.items():
                super().__setattr__(name, value)
            self._check_params()
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        self.__dict__["_settled"] = before.get("_settled", False)
