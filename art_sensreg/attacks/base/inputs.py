"""Checks of the inputs of attacks: images, their range, sizes, and settings whenever they change."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from art.attacks.attack import EvasionAttack

from art_sensreg.art_bridge.checks import check_images, clip_bounds
from art_sensreg.utils import as_numbers, check_differentiable, check_number
from art_sensreg.utils.checks import check_known


def attack_images(x: Any, classifier: Any) -> np.ndarray:
    """
    Images of any real dtype as a new float32 array, checked for shape, finite values and range.

    Values just outside `clip_values` through rounding are clipped; those further outside are refused, because an
    attack would move them by more than `eps`.
    """
    with np.errstate(over="ignore"):  # what overflows is infinite, and refused
        images = np.array(as_numbers(x, "x"), dtype=np.float32, order="C")
    low, high = attack_range(classifier)
    if images.shape != (0, *classifier.input_shape):
        check_images(images, classifier.input_shape, classifier.clip_values)
    return np.clip(images, low, high, out=images)


def attack_range(classifier: Any) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest values of images, as float32 arrays that broadcast; infinite without `clip_values`."""
    clip, shape = classifier.clip_values, tuple(classifier.input_shape)
    low, high = (-np.inf, np.inf) if clip is None else clip_bounds(clip, shape)
    return np.asarray(low, dtype=np.float32), np.asarray(high, dtype=np.float32)


def attack_number(name: str, value: Any) -> float:
    """A setting that is one number above 0. ART's own PGD also takes arrays: one value for each feature or image."""
    if isinstance(value, (np.ndarray, torch.Tensor)) and value.ndim:
        raise TypeError(
            f"`{name}` is an array of shape {tuple(value.shape)}; expected one number for all: ART's "
            "ProjectedGradientDescent takes one for each feature or image."
        )
    check_number(name, value, minimum=0.0, exclusive=True)
    return float(value)


class _Generate:
    """
    `generate`, outside ART's class hierarchy.

    ART's metaclass would wrap it to convert other types with `np.array`, which fails with numpy's own errors on
    tensors that require grad, are on a GPU or are bfloat16.
    """

    estimator: Any

    def generate(self, x: Any, y: Any = None, mask: Any = None, **kwargs: Any) -> np.ndarray:
        """
        Perturb images.

        :param x: Images `(n, *input_shape)` in the user's units, within `clip_values`.
        :param y: True labels, as indices or one-hot; None: those that the classifier predicts.
        :param mask: Not supported.
        :param kwargs: Not supported: an unknown argument is an error.
        :return: Images of the same shape: misclassified where the attack succeeded.
        :raises TypeError: If an argument is unknown, or `x` or `y` is not numeric.
        :raises ValueError: If images or labels do not fit, images are outside `clip_values`, or `mask` is given.
        """
        check_known("generate()", kwargs, ("x", "y"))
        if mask is not None:
            raise ValueError("`mask` is given; expected None: this attack changes all pixels.")
        check_differentiable(self.estimator.model, "estimator")
        return self._generate(x, y)

    def _generate(self, x: Any, y: Any) -> np.ndarray:
        """The attack itself."""
        raise NotImplementedError


class CheckedAttack(_Generate, EvasionAttack):
    """
    An ART attack that checks and normalises its settings whenever they change; a rejected change has no effect.

    Subclasses name their settings in `attack_params`, check and normalise them in `_check_params`, and end their
    constructor with `_settle`.
    """

    _settled = False

    def set_params(self, **kwargs: Any) -> None:
        """
        Set several settings together.

        :param kwargs: Settings by name.
        :raises ValueError: If there is no such setting, or one is out of range; nothing has changed then.
        :raises TypeError: If one has the wrong type.
        """
        unknown = {name: value for name, value in kwargs.items() if name not in self.attack_params}
        check_known("set_params()", unknown, self.attack_params, ValueError)
        self._change(kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        if self._settled and name in self.attack_params:
            self._change({name: value})
        else:
            super().__setattr__(name, value)

    def _settle(self) -> None:
        """Check all settings; from now on every change is checked."""
        self._check_params()
        self._settled = True

    def _change(self, values: dict[str, Any]) -> None:
        before = dict(vars(self))
        self._settled = False
        try:
            for name, value in values.items():
                setattr(self, name, value)
            self._check_params()
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        self._settled = True
