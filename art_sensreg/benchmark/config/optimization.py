"""How the weights of a defence are optimised: optimizer, weight decay, labels, schedule, average, augmentation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from art_sensreg.training import Augmentation
from art_sensreg.training.config import PRECISIONS
from art_sensreg.utils import check_choice, check_number, python_numbers

OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("one-cycle", "piecewise", "constant")
SGD_LEARNING_RATE = 0.1
"""The learning rate of SGD where none is given: those of the recipes are for Adam."""


@dataclass(frozen=True, kw_only=True)
class OptimizationSettings:
    """
    How every defence of a run is optimised, ART's included. None: as the recipe of the data set has it for a defence
    (:meth:`~art_sensreg.benchmark.config.settings.Recipe.options`), or as each does by itself, which is Adam on a
    one-cycle schedule for nearly all of them.

    :param optimizer: `adam`, `adamw` or `sgd` (with Nesterov's momentum off).
    :param momentum: Of SGD, at least 0 and below 1; None: 0.9.
    :param weight_decay: At least 0, of all weights: added to the gradient (`adam`, `sgd`), or decoupled (`adamw`,
        Loshchilov and Hutter 2019, arXiv 1711.05101).
    :param label_smoothing: Share of each label that is spread evenly over all classes, at least 0 and below 1 (Szegedy
        et al. 2016, arXiv 1512.00567, section 7), in training and in its attacks.
    :param schedule: `one-cycle` (Smith and Topin 2019, arXiv 1708.07120); `piecewise`: divided by 10 after half and
        after three quarters of the steps (Rice et al. 2020, arXiv 2002.11569); or `constant`.
    :param weight_average: Decay of the exponential moving average of the weights that is attacked in their place, above
        0 and below 1, with a warm-up: step `t` (from 0) has at most `(1 + t) / (10 + t)` (Gowal et al. 2020, arXiv
        2010.03593).
    :param max_grad_norm: Largest norm of the gradient of all weights, above 0: longer ones are shortened to it (Pascanu
        et al. 2013, arXiv 1211.5063, algorithm 1).
    :param precision: `float32`, or `bfloat16` / `float16` for mixed precision.
    :param augment: How training images are augmented: some of `crop=N`, `flip`, `cutout=N`, with commas between them,
        as in :class:`~art_sensreg.Augmentation`; or `none`.
    :raises ValueError: If a value is out of range.
    :raises TypeError: If a value has the wrong type.

    Example:
    >>> from art_sensreg.benchmark.config import OptimizationSettings
    >>> OptimizationSettings(optimizer="sgd", weight_decay=5e-4).given
    {'optimizer': 'sgd', 'weight_decay': 0.0005}
    """

    optimizer: str | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    label_smoothing: float | None = None
    schedule: str | None = None
    weight_average: float | None = None
    max_grad_norm: float | None = None
    precision: str | None = None
    augment: str | None = None

    def __post_init__(self) -> None:
        python_numbers(self)
        if self.optimizer is not None:
            check_choice("optimizer", self.optimizer, OPTIMIZERS)
        if self.schedule is not None:
            check_choice("schedule", self.schedule, SCHEDULES)
        if self.precision is not None:
            check_choice("precision", self.precision, PRECISIONS)
        for name in ("momentum", "weight_decay", "label_smoothing", "weight_average", "max_grad_norm"):
            value = getattr(self, name)
            if value is None:
                continue
            maximum = math.inf if name in ("weight_decay", "max_grad_norm") else 1.0
            exclusive = name in ("weight_average", "max_grad_norm")
            check_number(name, value, minimum=0.0, exclusive=exclusive, maximum=maximum, below=True)
        if self.augment is not None:
            object.__setattr__(self, "augment", _text_of(_augmentation_of(self.augment)))
        if self.momentum is not None and self.optimizer != "sgd":
            raise ValueError(
                f"`momentum` is {self.momentum!r} and `optimizer` is {self.optimizer!r}; expected sgd, which has one."
            )

    @property
    def given(self) -> dict[str, Any]:
        """What is not left to the defence."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def changed(self) -> dict[str, Any]:
        """What is given, but for values that leave any training as it is."""
        neutral = {"precision": "float32", "label_smoothing": 0.0}
        return {name: value for name, value in self.given.items() if value != neutral.get(name)}

    @property
    def augmentation(self) -> Augmentation | None:
        """How training images are augmented, or None."""
        return None if self.augment is None else _augmentation_of(self.augment)

    def check_images(self, input_shape: tuple[int, ...]) -> None:
        """ValueError if images of this shape cannot be augmented so."""
        if self.augmentation is None:
            return
        try:
            self.augmentation.check((1, *input_shape))
        except ValueError as error:
            raise ValueError(f"`augment` is {self.augment!r}: {error}") from error

    def updated(self, chosen: Mapping[str, Any]) -> OptimizationSettings:
        """With the choices of one defence, among which there may be others; ValueError or TypeError as above."""
        known = {name: value for name, value in chosen.items() if name in OPTIMIZATION_OPTIONS}
        if known.get("optimizer", "sgd") != "sgd":
            known.setdefault("momentum", None)  # that of a run in SGD
        return replace(self, **known)


def _augmentation_of(text: str) -> Augmentation:
    given = [] if text == "none" else [part.strip().partition("=")[::2] for part in str(text).split(",")]
    parts = dict(given)
    twice = len(parts) < len(given)
    sizes = {name: parts.pop(name) for name in ("crop", "cutout") if name in parts}
    flip = parts.pop("flip", None)
    numbers = all(size.isascii() and size.isdecimal() for size in sizes.values())
    if parts or twice or flip not in (None, "") or not numbers:
        raise ValueError(
            f"`augment` is {text!r}; expected some of crop=N, flip and cutout=N, such as 'crop=4,flip', or 'none'."
        )
    crop, cutout = (int(sizes.get(name, 0)) for name in ("crop", "cutout"))
    return Augmentation(crop_padding=crop, flip=flip == "", cutout=cutout)


def _text_of(augmentation: Augmentation) -> str | None:
    sizes = {"crop": augmentation.crop_padding, "cutout": augmentation.cutout}
    parts = [f"{name}={size}" for name, size in sizes.items() if size]
    return ",".join(sorted([*parts, *["flip"] * augmentation.flip])) or None


OPTIMIZATION_OPTIONS = tuple(entry.name for entry in fields(OptimizationSettings))
"""The options that every defence has that trains a model, besides its own."""
