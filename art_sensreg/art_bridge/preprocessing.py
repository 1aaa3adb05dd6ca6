"""
ART preprocessing during training: inside the trained function what autograd goes through, everything else once before.

Noise, perturbations and bounds are in the units of the trained function's input. So a preprocessor that stands before
it, and may change the unit, is refused where one of them is asked for.
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
from art_sensreg.art_bridge.differentiable import differentiable
from art_sensreg.art_bridge.dtypes import model_dtype
from art_sensreg.penalties.forward.main_output import ModelWrapper
from art_sensreg.utils.rng import random_state, restore_random_state

_STANDARDISATIONS = (StandardisationMeanStd, StandardisationMeanStdPyTorch)
# Of ART's own, those that make images of images, in the unit of `clip_values`; and the one that changes labels only.
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
    """Whether it is the `(x - 0) / 1` that ART puts before every model: it costs a small one a tenth of its time."""
    if type(operation) is not StandardisationMeanStdPyTorch:
        return False
    mean, std = operation.mean, operation.std
    return mean.ndim == std.ndim == 0 and bool(mean == 0 and std == 1)


def as_given(preprocessing: Any) -> Any:
    """The `preprocessing` of a classifier as its constructor takes it: a pair (mean, std) of a standardisation."""
    standardises = isinstance(preprocessing, _STANDARDISATIONS)
    if not standardises or not (preprocessing.apply_fit and preprocessing.apply_predict):
        return preprocessing
    return numbers_or_arrays((preprocessing.mean, preprocessing.std))


def numbers_or_arrays(pair: Any) -> Any:
    """A pair that ART keeps as arrays, as users write it; None stays None."""
    return pair if pair is None else tuple(part if np.ndim(part) else float(part) for part in pair)


class StandardisedModel(ModelWrapper):
    """
    A model behind `(x - mean) / std`, so that noise and derivatives are in the user's input units.

    :param model: The model.
    :param mean: Broadcasts against a batch.
    :param std: Broadcasts against a batch.

    Example:
    >>> from art_sensreg.art_bridge.preprocessing import StandardisedModel
    >>> StandardisedModel(nn.Identity(), torch.tensor(1.0), torch.tensor(2.0))(torch.tensor([[3.0]]))
    tensor([[1.]])
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: nn.Module, mean: torch.Tensor, std: torch.Tensor) -> None:
        super().__init__(model)
        # They follow the model to another device or precision, and stand in no file of its weights.
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model((x - self.mean) / self.std)
        return logits


class PreprocessedModel(ModelWrapper):
    """
    A model behind one of ART's torch preprocessors, so that noise and derivatives are in the user's input units.

    :param model: The model.
    :param operation: The preprocessor.
    """

    def __init__(self, model: nn.Module, operation: PreprocessorPyTorch) -> None:
        super().__init__(model)
        self.operation = operation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(self.operation.forward(x)[0].to(x.dtype))
        return logits


def trained_model(classifier: PyTorchClassifier) -> nn.Module:
    """
    The function that is trained: the classifier's model, behind what is inside of it of the preprocessing.

    :param classifier: ART classifier.
    :return: The model itself, or a :class:`StandardisedModel` or :class:`PreprocessedModel` around it.

    Example:
    >>> from art_sensreg.art_bridge.preprocessing import trained_model
    >>> classifier = PyTorchClassifier(nn.Identity(), None, (2,), 2, preprocessing=(1.0, 2.0), device_type="cpu")
    >>> trained_model(classifier)(torch.tensor([[3.0, 5.0]]))
    tensor([[1., 2.]])
    """
    return Preprocessing.of(classifier).trained_model()


@dataclass(frozen=True)
class Preprocessing:
    """
    A classifier's preprocessing as training takes it.

    :param classifier: ART classifier.
    :param before: What is applied to the data, in this order, before they are trained on.
    :param inside: What comes after that, and is part of the trained function: standardisations, and torch preprocessors
        that autograd goes through, if they are applied in training and prediction alike.
    """

    classifier: PyTorchClassifier
    before: tuple[Preprocessor, ...]
    inside: tuple[Preprocessor, ...]

    @classmethod
    def of(cls, classifier: PyTorchClassifier) -> Preprocessing:
        """
        Find out what can be inside.

        :param classifier: ART classifier.
        :return: Its preprocessing.
        """
        operations = [op for op in classifier.preprocessing_operations if op.apply_fit or op.apply_predict]
        count = 0
        for operation in reversed(operations):
            if not (operation.apply_fit and operation.apply_predict and _can_be_inside(operation, classifier)):
                break
            count += 1
        first = len(operations) - count
        return cls(classifier, tuple(operations[:first]), tuple(operations[first:]))

    def trained_model(self) -> nn.Module:
        """See :func:`trained_model`."""
        model: nn.Module = self.classifier.model
        for operation in reversed(self.inside):
            if not isinstance(operation, _STANDARDISATIONS):
                assert isinstance(operation, PreprocessorPyTorch)
                model = PreprocessedModel(model, operation)
            elif np.any(np.asarray(operation.mean) != 0) or np.any(np.asarray(operation.std) != 1):
                image = np.zeros((1, *self.classifier.input_shape), dtype=np.float32)
                parts = broadcastable_mean_std(image, np.asarray(operation.mean), np.asarray(operation.std))
                dtype, device = model_dtype(self.classifier.model), self.classifier.device
                model = StandardisedModel(model, *(torch.as_tensor(part, dtype=dtype, device=device) for part in parts))
        return model

    def apply(
        self, x: np.ndarray, y: np.ndarray, fit: bool = True, unit_for: Sequence[str] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        Apply what stands before the trained function, once to all data, as ART's `fit` does.

        :param x: Images `(n, ...)`.
        :param y: Class indices `(n,)`, or rows of class probabilities `(n, C)`. Preprocessors get rows where they need
            them: those of ART that leave labels alone do not.
        :param fit: Whether the training (`apply_fit`) or the test (`apply_predict`) preprocessors run.
        :param unit_for: What is in the unit of the images, for the message; nothing: they may get another.
        :return: Images, of the dtype of `x`, and labels.
        :raises ValueError: If the unit counts and a preprocessor might change it, or several rows come of an image.
        """
        kind = x.dtype
        for operation in self.before:
            if not (operation.apply_fit if fit else operation.apply_predict):
                continue
            images, labels = _applied(operation, x, y, self.classifier.nb_classes)
            if not _keeps_unit(operation):
                self._check(operation, x, images, unit_for)
            x, y = images, labels
        return np.ascontiguousarray(x, dtype=kind), y

    def _check(self, operation: Preprocessor, before: np.ndarray, after: np.ndarray, unit_for: Sequence[str]) -> None:
        name = type(operation).__name__
        if len(after) != len(before):
            raise ValueError(
                f"`preprocessing_defences` holds {name}, which makes {len(after)} rows of {len(before)} images; "
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


def fit_preprocessing(
    classifier: PyTorchClassifier, x: np.ndarray, y: np.ndarray, fit: bool = True, unit_for: Sequence[str] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """
    Apply the classifier's preprocessing except for what is inside the trained function, once to all data.

    :param classifier: ART classifier.
    :param x: Images `(n, ...)`.
    :param y: As for :meth:`Preprocessing.apply`.
    :param fit: As for :meth:`Preprocessing.apply`.
    :param unit_for: As for :meth:`Preprocessing.apply`.
    :return: Images, of the dtype of `x`, and labels.
    :raises ValueError: As there.
    """
    return Preprocessing.of(classifier).apply(x, y, fit, unit_for)


def _applied(operation: Any, x: np.ndarray, y: np.ndarray, nb_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Apply one preprocessor; class indices are made rows for those that do something with labels."""
    if y.ndim == 1 and type(operation).__module__.partition(".")[0] in ("art", "art_sensreg"):
        drawn = random_state()
        try:
            new_x, new_y = operation(x, y)
            if new_y is y or np.array_equal(new_y, y):
                return new_x, y
        except Exception:  # noqa: BLE001 - it takes rows only, or fails with those too
            pass
        restore_random_state(drawn)
    x, y = operation(x, to_categorical(y, nb_classes) if y.ndim == 1 else y)
    return x, y


def rows_an_image(classifier: PyTorchClassifier) -> int:
    """
    How many rows ART's EoT preprocessors make of an image at prediction.

    :param classifier: ART classifier.
    :return: Their number; 1 without any.

    Example:
    >>> from art_sensreg.art_bridge.preprocessing import rows_an_image
    >>> rows_an_image(PyTorchClassifier(nn.Identity(), None, (2,), 2))
    1
    """
    operations = classifier.preprocessing_operations
    return math.prod(op.nb_samples for op in operations if isinstance(op, EoTPyTorch) and op.apply_predict)


def mean_of_rows(values: np.ndarray, images: int, rows: int) -> np.ndarray:
    """
    The mean over the rows of each image.

    :param values: An array `(images * rows, ...)`.
    :param images: Number of images.
    :param rows: Rows of an image.
    :return: Array `(images, ...)`.
    :raises ValueError: If there is another number of rows.

    Example:
    >>> from art_sensreg.art_bridge.preprocessing import mean_of_rows
    >>> mean_of_rows(np.array([[1.0], [3.0], [5.0], [5.0]]), images=2, rows=2).tolist()
    [[2.0], [5.0]]
    """
    if len(values) != images * rows:
        raise ValueError(
            f"`preprocessing_defences` makes {len(values)} rows of {images} images; expected one row an image, or "
            "ART's EoT preprocessors, whose rows are averaged."
        )
    mean: np.ndarray = values.reshape(images, rows, *values.shape[1:]).mean(axis=1)
    return mean


def _keeps_unit(operation: Preprocessor) -> bool:
    """One of ART's that is known to, and not a subclass that does something else."""
    kind = type(operation)
    return any(
        isinstance(operation, known) and kind.__call__ is known.__call__ and kind.forward is known.forward
        for known in _UNIT_KEPT
    )


def _can_be_inside(operation: Preprocessor, classifier: PyTorchClassifier) -> bool:
    if isinstance(operation, _STANDARDISATIONS):
        return True
    if not isinstance(operation, PreprocessorPyTorch) or isinstance(operation, EoTPyTorch) or _keeps_unit(operation):
        return False  # ART's own mix images and labels, or round
    if type(operation).estimate_forward is not PreprocessorPyTorch.estimate_forward:
        return False  # it says itself that its gradient has to be estimated
    return differentiable(operation, *_sample(classifier), classifier.nb_classes)


def _sample(classifier: PyTorchClassifier) -> tuple[torch.Tensor, torch.Tensor]:
    """Two images from the middle of the input range, and the width of that range."""
    clip = (0.0, 1.0) if classifier.clip_values is None else classifier.clip_values
    low, high = (torch.as_tensor(end, dtype=torch.float64) for end in clip_bounds(clip, classifier.input_shape))
    shape = (min(2, classifier.nb_classes), *classifier.input_shape)
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    dtype, device = model_dtype(classifier.model), classifier.device
    x = low + (high - low) * (0.1 + 0.8 * drawn)
    return x.to(device, dtype), (high - low).to(device, dtype)
