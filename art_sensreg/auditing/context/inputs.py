"""The inputs of an audit: the classifier, the images, the threat model, and how much work the checks may do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier

from art_sensreg.attacks.base.norms import norm_name
from art_sensreg.attacks.base.predictions import labels_of
from art_sensreg.attacks.base.sizes import check_size, parse_size
from art_sensreg.attacks.wrappers.torch_model import check_classifier
from art_sensreg.utils import as_array, check_differentiable, check_seed, shown
from art_sensreg.utils.rng import derive_seed


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much work the checks do."""

    steps: int = 80  # of the reference attack
    restarts: int = 10  # that one check tries beyond it
    queries: int = 300  # of the black-box attack; a sixth as many random points are tried
    points: int = 400  # images at most
    binarised: int = 40  # images for which a binarised copy of the model is made


FULL = Effort()
QUICK = Effort(steps=40, restarts=3, queries=60, points=128, binarised=16)


@dataclass(frozen=True, kw_only=True)
class AuditInputs:
    """The inputs of an audit; see :func:`art_sensreg.audit`."""

    classifier: PyTorchClassifier
    x: np.ndarray
    y: np.ndarray
    eps: float
    norm: str
    seed: int
    effort: Effort
    twin: PyTorchClassifier | None = None
    surrogates: Sequence[PyTorchClassifier] = ()
    penalties: Sequence[Any] = ()
    train_data: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.x)

    @property
    def classifiers(self) -> list[PyTorchClassifier]:
        """The classifier under audit, its twin and the surrogates."""
        return [self.classifier, *([] if self.twin is None else [self.twin]), *self.surrogates]

    def generator(self, *purpose: int | str) -> torch.Generator:
        """Random numbers for one purpose, on the CPU."""
        return torch.Generator().manual_seed(derive_seed(self.seed, *purpose))


def validated(given: AuditInputs) -> AuditInputs:
    """
    Check the inputs of an audit, and convert them to the form that the checks rely on: float32 images, class indices,
    at most as many points as the effort allows, tuples of models and penalties.
    """
    surrogates, penalties = _as_tuple(given.surrogates), _as_tuple(given.penalties)
    for penalty in penalties:
        if not callable(penalty):
            raise TypeError(
                f"`penalties` holds {type(penalty).__name__}; expected penalties such as SensitivityPenalty()."
            )
    images, labels = _checked_data(given.classifier, given.x, given.y)
    eps, norm = parse_size("eps", given.eps), norm_name(given.norm)
    _check_eps(given.classifier, images, eps, norm)
    check_seed("seed", given.seed)
    for name, others in (("twin", _as_tuple(given.twin)), ("surrogates", surrogates)):
        for other in others:
            _check_other(name, other, given.classifier)
    if given.train_data is not None:
        _check_train_data(given.classifier, given.train_data)
    points = given.effort.points
    return replace(
        given,
        x=images[:points],
        y=labels[:points],
        eps=eps,
        norm=norm,
        seed=int(given.seed),
        surrogates=surrogates,
        penalties=penalties,
    )


def _as_tuple(given: Any) -> tuple[Any, ...]:
    """A single object counts as a list of one."""
    if given is None:
        return ()
    return tuple(given) if isinstance(given, (list, tuple)) else (given,)


def _checked_data(classifier: Any, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    check_differentiable(check_classifier(classifier).model, "classifier")
    images = as_array(x, "x")
    if images.dtype.kind not in "fiu" or images.ndim < 2 or len(images) == 0:
        raise ValueError(f"`x` has shape {images.shape} and dtype {images.dtype}; expected images (n, *input_shape).")
    if images.shape[1:] != tuple(classifier.input_shape):
        raise ValueError(
            f"`x` has images of shape {images.shape[1:]}; expected {tuple(classifier.input_shape)}, the `input_shape`."
        )
    return images.astype(np.float32), labels_of(classifier, y, len(images))


def _check_eps(classifier: PyTorchClassifier, images: np.ndarray, eps: float, norm: str) -> None:
    """Refuse an eps in units other than those of the images; without `clip_values` the images give their range."""
    clip = classifier.clip_values
    low, high = (images.min(), images.max()) if clip is None else clip
    if np.all(np.asarray(low) < np.asarray(high)):
        check_size("eps", eps, norm, tuple(classifier.input_shape), low, high)


def _check_other(name: str, other: Any, classifier: PyTorchClassifier) -> None:
    if not isinstance(other, PyTorchClassifier):
        raise TypeError(f"`{name}` holds {type(other).__name__}; expected ART's PyTorchClassifier.")
    came = (tuple(other.input_shape), other.nb_classes)
    expected = (tuple(classifier.input_shape), classifier.nb_classes)
    if came != expected:
        raise ValueError(
            f"`{name}` takes images {came[0]} of {came[1]} classes; expected {expected[0]}, {expected[1]}."
        )
    theirs, ours = other.clip_values, classifier.clip_values
    if theirs is not None and ours is not None and not all(map(np.array_equal, theirs, ours)):
        raise ValueError(
            f"`{name}` has `clip_values` {shown(tuple(theirs))}; expected those of the classifier, "
            f"{shown(tuple(ours))}."
        )


def _check_train_data(classifier: PyTorchClassifier, train_data: Any) -> None:
    try:
        images, labels = train_data
    except (TypeError, ValueError):
        raise ValueError("`train_data` is not a pair; expected training images and labels.") from None
    try:
        _checked_data(classifier, images, labels)
    except ValueError as error:
        raise ValueError(f"`train_data`: {error}") from None
