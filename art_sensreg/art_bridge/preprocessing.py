"""
ART preprocessing in training: differentiable preprocessing is part of the trained function, the rest is applied once.

Noise, perturbations and bounds are in the units of the trained function's input. A preprocessor that is applied before
it and may change the unit is therefore refused if any of them is used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from art.defences import preprocessor as defences
from art.defences.preprocessor.preprocessor import Preprocessor, PreprocessorPyTorch
from art.estimators.classification import PyTorchClassifier
from art.preprocessing.expectation_over_transformation.pytorch import EoTPyTorch
from art.preprocessing.standardisation_mean_std.numpy import StandardisationMeanStd
from art.preprocessing.standardisation_mean_std.pytorch import StandardisationMeanStdPyTorch
from art.preprocessing.standardisation_mean_std.utils import broadcastable_mean_std
from art.utils import to_categorical
from torch import nn

from art_sensreg.art_bridge.checks import clip_bounds
from art_sensreg.art_bridge.dtypes import model_dtype
from art_sensreg.penalties.forward.main_output import ModelWrapper
from art_sensreg.utils.model_rng import preserve_rng_state
from art_sensreg.utils.rng import random_state, restore_random_state

STANDARDISATIONS = (StandardisationMeanStd, StandardisationMeanStdPyTorch)
# ART's preprocessors that map images to images in the unit of `clip_values`, and the one that changes only labels.
_UNIT_KEPT: tuple[type[Preprocessor], ...] = (
    defences.CutMix,
    defences.CutMixPyTorch,
    defences.Cutout,
    defences.CutoutPyTorch,
    defences.FeatureSqueezing,
    defences.GaussianAugmentation,
    defences.JpegCompression,
    defences.LabelSmoothing,
    defences.Mixup,
    defences.MixupPyTorch,
    defences.SpatialSmoothing,
    defences.SpatialSmoothingPyTorch,
    defences.TotalVarMin,
)


def is_identity(operation: Any) -> bool:
    """Whether it is the `(x - 0) / 1` that ART puts before every model, which costs a small one a tenth of its time."""
    if type(operation) is not StandardisationMeanStdPyTorch:
        return False
    mean, std = operation.mean, operation.std
    return bool(mean.ndim == std.ndim == 0 and mean.item() == 0 and std.item() == 1)


def as_given(preprocessing: Any) -> Any:
    """The `preprocessing` of a classifier as its constructor takes it: a pair (mean, std) of a standardisation."""
    standardises = isinstance(preprocessing, STANDARDISATIONS)
    if not standardises or not (preprocessing.apply_fit and preprocessing.apply_predict):
        return preprocessing
    return numbers_or_arrays((preprocessing.mean, preprocessing.std))


def numbers_or_arrays(pair: Any) -> Any:
    """A pair that ART stores as arrays, in the form that users write; None stays None."""
    return pair if pair is None else tuple(part if np.ndim(part) else float(part) for part in pair)


class StandardisedModel(ModelWrapper):
    """A model behind `(x - mean) / std`, so that noise and gradients are in the user's input units."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: nn.Module, mean: torch.Tensor, std: torch.Tensor) -> None:
        super().__init__(model)
        # They follow the model to another device or precision, but are not saved with its weights.
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model((x - self.mean) / self.std)
        return logits


def standardised(model: nn.Module, operation: Any, classifier: PyTorchClassifier) -> nn.Module:
    """A model behind one of ART's standardisations; the model itself if that is the identity."""
    if not (np.any(np.asarray(operation.mean) != 0) or np.any(np.asarray(operation.std) != 1)):
        return model
    image = np.zeros((1, *classifier.input_shape), dtype=np.float32)
    parts = broadcastable_mean_std(image, np.asarray(operation.mean), np.asarray(operation.std))
    dtype, device = model_dtype(classifier.model), classifier.device
    return StandardisedModel(model, *(torch.as_tensor(part, dtype=dtype, device=device) for part in parts))


class PreprocessedModel(ModelWrapper):
    """A model behind one of ART's torch preprocessors, so that noise and gradients are in the user's input units."""

    def __init__(self, model: nn.Module, operation: PreprocessorPyTorch) -> None:
        super().__init__(model)
        self.operation = operation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(self.operation.forward(x)[0].to(x.dtype))
        return logits


@dataclass(frozen=True)
class Preprocessing:
    """
    A classifier's preprocessing, as training applies it.

    :param classifier: ART classifier.
    :param before: What is applied to the data before training, in this order.
    :param inside: What follows and is part of the trained function: standardisations, and differentiable torch
        preprocessors, if they are applied both in training and in prediction.
    """

    classifier: PyTorchClassifier
    before: tuple[Preprocessor, ...]
    inside: tuple[Preprocessor, ...]

    @classmethod
    def of(cls, classifier: PyTorchClassifier) -> Preprocessing:
        """Determine which of the last operations can be part of the trained function."""
        operations = [op for op in classifier.preprocessing_operations if op.apply_fit or op.apply_predict]
        first = len(operations)
        for operation in reversed(operations):
            if not (operation.apply_fit and operation.apply_predict and _can_be_inside(operation, classifier)):
                break
            first -= 1
        return cls(classifier, tuple(operations[:first]), tuple(operations[first:]))

    def trained_model(self) -> nn.Module:
        """The function to be trained: the classifier's model behind the `inside` preprocessing."""
        model: nn.Module = self.classifier.model
        for operation in reversed(self.inside):
            if isinstance(operation, STANDARDISATIONS):
                model = standardised(model, operation, self.classifier)
            else:
                assert isinstance(operation, PreprocessorPyTorch)
                model = PreprocessedModel(model, operation)
        return model

    def apply(
        self, x: np.ndarray, y: np.ndarray, fit: bool = True, unit_for: Sequence[str] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        Apply the preprocessing that precedes the trained function to all data at once, as ART's `fit` does.

        :param x: Images `(n, ...)`.
        :param y: Class indices `(n,)`, or class probabilities `(n, C)`. Preprocessors get probabilities where they need
            them: those of ART that leave labels alone do not.
        :param fit: Whether the training (`apply_fit`) or the test (`apply_predict`) preprocessors run.
        :param unit_for: What is in the unit of the images, for the message; if nothing is, the unit may change.
        :return: Images, of the dtype of `x`, and labels.
        :raises ValueError: If a preprocessor might change a unit that matters, or makes several images from one.
        """
        kind = x.dtype
        for operation in self.before:
            if not (operation.apply_fit if fit else operation.apply_predict):
                continue
            images, labels = _applied(operation, x, y, self.classifier.nb_classes)
            if not _keeps_unit(operation):
                _check_unit(operation, x, images, unit_for)
            x, y = images, labels
        return np.ascontiguousarray(x, dtype=kind), y


def copies_per_image(classifier: PyTorchClassifier) -> int:
    """How many copies of an image ART's EoT preprocessors make at prediction time; 1 if there are none."""
    operations = classifier.preprocessing_operations
    return math.prod(op.nb_samples for op in operations if isinstance(op, EoTPyTorch) and op.apply_predict)


def mean_of_copies(values: np.ndarray, images: int, copies: int) -> np.ndarray:
    """The mean over the copies of each image, `(images, ...)`; ValueError if their number is wrong."""
    if len(values) != images * copies:
        raise ValueError(
            f"`preprocessing_defences` makes {len(values)} images of {images}; expected one of each, or "
            "ART's EoT preprocessors, whose copies are averaged."
        )
    mean: np.ndarray = values.reshape(images, copies, *values.shape[1:]).mean(axis=1)
    return mean


def _check_unit(operation: Preprocessor, before: np.ndarray, after: np.ndarray, unit_for: Sequence[str]) -> None:
    name = type(operation).__name__
    if len(after) != len(before):
        raise ValueError(
            f"`preprocessing_defences` holds {name}, which makes {len(after)} images of {len(before)}; "
            "expected one of each. For several random ones an image, attack art_sensreg.attacks.EOT(model, "
            "transform=...), and train with a preprocessor that draws one."
        )
    if unit_for and not (np.shape(after) == np.shape(before) and np.array_equal(after, before)):
        raise ValueError(
            f"`preprocessing_defences` holds {name}, which comes before the trained function and may change the "
            f"unit of {', '.join(unit_for)}; expected a PreprocessorPyTorch that autograd goes through, with "
            "apply_fit and apply_predict, and only such ones after it (it is trained through), "
            "`preprocessing=(mean, std)`, or images that have been preprocessed and a classifier without it."
        )


def _applied(operation: Any, x: np.ndarray, y: np.ndarray, nb_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Apply one preprocessor; class indices become probabilities if it changes labels."""
    if y.ndim == 1 and type(operation).__module__.partition(".")[0] in ("art", "art_sensreg"):
        drawn = random_state()
        try:
            new_x, new_y = operation(x, y)
            if new_y is y or np.array_equal(new_y, y):
                return new_x, y
        except Exception:  # noqa: BLE001 - it takes probabilities only, or fails with those too
            pass
        restore_random_state(drawn)
    x, y = operation(x, to_categorical(y, nb_classes) if y.ndim == 1 else y)
    return x, y


def _keeps_unit(operation: Preprocessor) -> bool:
    """Whether it is one of ART's that is known to, and not a subclass that may differ."""
    kind = type(operation)
    return any(
        isinstance(operation, known) and kind.__call__ is known.__call__ and kind.forward is known.forward
        for known in _UNIT_KEPT
    )


def _can_be_inside(operation: Preprocessor, classifier: PyTorchClassifier) -> bool:
    if isinstance(operation, STANDARDISATIONS):
        return True
    if not isinstance(operation, PreprocessorPyTorch) or isinstance(operation, EoTPyTorch) or _keeps_unit(operation):
        return False  # ART's own mix images and labels, or round
    if type(operation).estimate_forward is not PreprocessorPyTorch.estimate_forward:
        return False  # it says itself that its gradient has to be estimated
    return _differentiable(operation, *_sample(classifier), classifier.nb_classes)


def _sample(classifier: PyTorchClassifier) -> tuple[torch.Tensor, torch.Tensor]:
    """Two images from the middle of the input range, and the width of that range."""
    clip = (0.0, 1.0) if classifier.clip_values is None else classifier.clip_values
    low, high = (torch.as_tensor(end, dtype=torch.float64) for end in clip_bounds(clip, classifier.input_shape))
    shape = (min(2, classifier.nb_classes), *classifier.input_shape)
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    dtype, device = model_dtype(classifier.model), classifier.device
    x = low + (high - low) * (0.1 + 0.8 * drawn)
    return x.to(device, dtype), (high - low).to(device, dtype)


def _differentiable(operation: PreprocessorPyTorch, x: torch.Tensor, width: Any, nb_classes: int) -> bool:
    """
    Whether it maps one image to one, leaves labels unchanged, and has gradients that agree with finite differences.

    Nothing may be rounded or detached. A random preprocessor is given the same draws each time.
    """
    generator = torch.Generator().manual_seed(1)
    try:
        for _ in range(8):
            along = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device) * width
            if not _derivative_agrees(operation, x, along, generator):
                return False
        labels = torch.eye(len(x), nb_classes, device=x.device)
        with torch.no_grad(), preserve_rng_state(x.device, 0):
            after = operation.forward(x.clone(), labels.clone())[1]
    except Exception:  # noqa: BLE001 - it may need anything, and then stands before
        return False
    return after is None or (isinstance(after, torch.Tensor) and torch.equal(after, labels))


def _derivative_agrees(
    operation: PreprocessorPyTorch, x: torch.Tensor, along: torch.Tensor, generator: torch.Generator
) -> bool:
    def output(images: torch.Tensor) -> torch.Tensor:
        with preserve_rng_state(x.device, 0):
            result: torch.Tensor = operation.forward(images)[0]
        return result

    leaf = x.clone().requires_grad_(True)
    with torch.enable_grad():
        value = output(leaf.clone())  # it may work in place
        if len(value) != len(x) or not value.requires_grad:
            return False
        weights = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(x.device)
        (gradient,) = torch.autograd.grad((value.double() * weights).sum(), leaf)
    step = 1e-3
    with torch.no_grad():
        ends = [output(x + sign * step * along).double() for sign in (1, -1)]
    measured = ((ends[0] - ends[1]) / (2 * step) * weights).sum()
    size = (gradient.double() * along.double()).pow(2).sum().sqrt()
    told = (gradient.double() * along.double()).sum()
    return bool(size > 0) and bool((measured - told).abs() <= 0.05 * size)
