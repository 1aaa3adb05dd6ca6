"""An ART classifier as one differentiable module: its preprocessing and its model, in the user's units."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from art.defences.preprocessor.preprocessor import PreprocessorPyTorch
from art.estimators.classification import PyTorchClassifier
from art.preprocessing.standardisation_mean_std.numpy import StandardisationMeanStd
from art.preprocessing.standardisation_mean_std.pytorch import StandardisationMeanStdPyTorch
from art.preprocessing.standardisation_mean_std.utils import broadcastable_mean_std
from torch import nn

from art_sensreg.art_bridge.preprocessing import mean_of_rows, model_dtype, numpy_dtype, rows_an_image
from art_sensreg.art_bridge.whole_model import predicting_model
from art_sensreg.attacks.bpda import BPDA
from art_sensreg.attacks.eot import EOT
from art_sensreg.classifiers import SensRegClassifier
from art_sensreg.outputs import SingleOutput, class_logits, class_scores
from art_sensreg.utils import as_array, shown


def check_classifier(classifier: Any) -> PyTorchClassifier:
    """
    Check that attacks can see a classifier's model.

    :param classifier: What came.
    :return: The same.
    :raises TypeError: If it is not one of ART's PyTorch classifiers.

    Example:
    >>> from art_sensreg.attacks.torch_model import check_classifier
    >>> check_classifier(nn.Identity())
    Traceback (most recent call last):
    ...
    TypeError: `classifier` is Identity; expected ART's PyTorchClassifier, or a subclass such as SensRegClassifier.
    """
    if not isinstance(classifier, PyTorchClassifier):
        raise TypeError(
            f"`classifier` is {type(classifier).__name__}; expected ART's PyTorchClassifier, or a subclass such as "
            "SensRegClassifier."
        )
    return classifier


def labels_of(classifier: PyTorchClassifier, y: Any, n: int) -> np.ndarray:
    """
    Labels as class indices.

    :param classifier: The classifier.
    :param y: Class indices `(n,)` or `(n, 1)`, or rows `(n, nb_classes)`; of a model with one output, indices 0
        and 1, or rows `(n, 2)`.
    :param n: Number of images.
    :return: int64 array `(n,)`.
    :raises ValueError: If their number, shape or range is wrong.

    Example:
    >>> from art_sensreg.attacks.torch_model import labels_of
    >>> classifier = PyTorchClassifier(nn.Flatten(), nn.CrossEntropyLoss(), (3,), 3)
    >>> labels_of(classifier, np.eye(3), 3).tolist()
    [0, 1, 2]
    """
    array, classes = as_array(y, "y"), classifier.nb_classes
    expected = f"{n} class indices from 0 to {classes - 1}, or rows ({n}, {classes})"
    if array.ndim == 2 and array.shape[1] == classes:
        rows = array.astype(np.float64)
        if not np.allclose(rows.sum(axis=1), 1.0, atol=1e-4):
            raise ValueError(f"`y` has rows of shape {array.shape} that do not sum to 1; expected {expected}.")
        array = rows.argmax(axis=1)
    elif array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or len(array) != n or array.dtype.kind not in "iuf":
        raise ValueError(f"`y` has shape {np.shape(y)} and dtype {array.dtype}; expected {expected}.")
    if n and (not np.all(np.mod(array, 1) == 0) or array.min() < 0 or array.max() >= classes):
        raise ValueError(f"`y` has values from {array.min()} to {array.max()}; expected {expected}.")
    return array.astype(np.int64)


def predicted_labels(classifier: PyTorchClassifier, x: np.ndarray, batch_size: int = 128) -> np.ndarray:
    """
    The classes that a classifier's own `predict` takes images for.

    :param classifier: ART classifier.
    :param x: Images `(n, *input_shape)`, floating point.
    :param batch_size: Rows of a forward pass.
    :return: int64 array `(n,)`.
    :raises ValueError: If the loss does not tell what a single output is, or there is not one output an image.

    Example:
    >>> from art_sensreg.attacks.torch_model import predicted_labels
    >>> classifier = PyTorchClassifier(nn.Identity(), nn.BCEWithLogitsLoss(), (1,), 2)
    >>> predicted_labels(classifier, np.array([[-1.0], [1.0]], dtype=np.float32))
    array([0, 1])
    """
    if not len(x):
        return np.zeros(0, dtype=np.int64)
    classes: np.ndarray = predicted_scores(classifier, x, batch_size).argmax(axis=1)
    return classes


def predicted_scores(classifier: PyTorchClassifier, x: np.ndarray, batch_size: int = 128) -> np.ndarray:
    """
    What a classifier's own `predict` answers, one row an image and one column a class; see `outputs.class_scores`.

    :param classifier: ART classifier; rows that ART's EoT preprocessors make of an image are averaged.
    :param x: Images `(n, *input_shape)`, floating point, at least one.
    :param batch_size: Rows of a forward pass.
    :return: `(n, C)`.
    :raises ValueError: If the loss does not tell what a single output is, or there is not one output an image.

    Example:
    >>> from art_sensreg.attacks.torch_model import predicted_scores
    >>> classifier = PyTorchClassifier(nn.Identity(), nn.BCELoss(), (1,), 2)
    >>> predicted_scores(classifier, np.array([[0.25]], dtype=np.float32))
    array([[0.75, 0.25]], dtype=float32)
    """
    images = as_model_takes(classifier, x)
    try:
        outputs = np.asarray(classifier.predict(images, batch_size=batch_size))
    except (AttributeError, TypeError):
        with torch.no_grad():  # a model that returns no tensor has a clearer error
            differentiable_model(classifier)(torch.from_numpy(images[:1]).to(classifier.device))
        raise
    if len(outputs) != len(x):
        outputs = mean_of_rows(outputs, len(x), rows_an_image(classifier))
    return class_scores(outputs, classifier)


def as_model_takes(classifier: PyTorchClassifier, x: np.ndarray) -> np.ndarray:
    """
    Images in the type that a classifier's `predict` takes: ART's own does not convert to that of the model.

    :param classifier: ART classifier.
    :param x: Images, floating point.
    :return: The images, converted where they have to be.
    :raises TypeError: If the model computes in a type that numpy has not, and the classifier does not convert.

    Example:
    >>> from art_sensreg.attacks.torch_model import as_model_takes
    >>> classifier = PyTorchClassifier(nn.Linear(1, 2).double(), nn.CrossEntropyLoss(), (1,), 2)
    >>> as_model_takes(classifier, np.zeros((1, 1), dtype=np.float32)).dtype
    dtype('float64')
    """
    if isinstance(classifier, SensRegClassifier):
        return x
    if model_dtype(classifier.model) == torch.bfloat16:
        raise TypeError(
            "`classifier` computes in bfloat16, which numpy has not, so that ART's own `predict` takes no images; "
            "expected a SensRegClassifier around the model, which converts them."
        )
    return x.astype(numpy_dtype(classifier.model), copy=False)


class ClassifierView(nn.Module):
    """
    What a classifier computes before its postprocessing, as one module from images in the user's units to logits.

    The classifier's own model is inside, not a copy: in evaluation mode only while `eval` was called on this module.

    :param classifier: ART classifier.
    :param surrogates: Whether torch preprocessors with a zero gradient are passed straight through (BPDA); False: the
        gradient is the one that ART's attacks see.
    """

    def __init__(self, classifier: PyTorchClassifier, surrogates: bool = True) -> None:
        super().__init__()
        self.classifier_model = predicting_model(check_classifier(classifier))
        self.single_output, self.rows = SingleOutput.of(classifier), rows_an_image(classifier)
        if isinstance(self.classifier_model, EOT) and self.single_output.kind == "probability":
            self.classifier_model = _in_log_odds(self.classifier_model, self.single_output)
        self.layers = nn.ModuleList(_stages(classifier, surrogates))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kind, rows = x.dtype, len(x)
        x = x.to(model_dtype(self.classifier_model))
        for layer in self.layers:
            x = layer(x)
        averaged = self.rows if len(x) == rows * self.rows else 1
        logits = class_logits(self.classifier_model, x, self.single_output, averaged)
        if len(logits) != rows:
            raise ValueError(
                f"`classifier` returns {len(logits)} rows for {rows} images; expected one row an image, or a "
                "preprocessor of ART's EoTPyTorch, whose rows are averaged."
            )
        return logits.to(kind)


def differentiable_model(classifier: PyTorchClassifier, surrogates: bool = True) -> nn.Module:
    """
    A classifier as one module, so that attacks outside of ART see its preprocessing too.

    :param classifier: ART classifier, with any preprocessing.
    :param surrogates: Whether torch preprocessors with a zero gradient are passed straight through (BPDA); False: the
        gradient is the one that ART's attacks see.
    :return: Module from images in the user's units to logits `(n, C)`, in evaluation mode. Postprocessing is left out.
    :raises TypeError: If it is not one of ART's PyTorch classifiers.

    Example:
    >>> from art_sensreg.attacks import differentiable_model
    >>> classifier = PyTorchClassifier(nn.Identity(), nn.CrossEntropyLoss(), (2,), 2, preprocessing=(0.5, 2.0))
    >>> differentiable_model(classifier)(torch.tensor([[0.5, 2.5]]))
    tensor([[0., 1.]])
    """
    return ClassifierView(classifier, surrogates).eval()


def unit_box_model(classifier: PyTorchClassifier, surrogates: bool = True) -> tuple[nn.Module, float, float]:
    """
    A classifier as a module of images in [0, 1], as attacks that know only that box take it.

    :param classifier: ART classifier with `clip_values`.
    :param surrogates: As for :func:`differentiable_model`.
    :return: The module, and `low` and `width` of the user's range: an image is `low + width * unit image`, and `eps` is
        `width * unit eps`.
    :raises ValueError: If `clip_values` is missing, or is not the same for all channels.

    Example:
    >>> from art_sensreg.attacks.torch_model import unit_box_model
    >>> classifier = PyTorchClassifier(nn.Identity(), nn.CrossEntropyLoss(), (2,), 2, clip_values=(0, 255))
    >>> model, low, width = unit_box_model(classifier)
    >>> model(torch.tensor([[0.0, 1.0]])), low, width
    (tensor([[  0., 255.]]), 0.0, 255.0)
    """
    view = differentiable_model(classifier, surrogates)
    clip = classifier.clip_values
    if clip is None:
        raise ValueError("`classifier` has no `clip_values`; expected the range of the images, for example (0.0, 1.0).")
    low, high = (np.unique(np.asarray(value, dtype=np.float64)) for value in clip)
    if len(low) > 1 or len(high) > 1:
        raise ValueError(f"`classifier` has `clip_values` {shown(clip)}; expected one range for all channels.")
    start, width = float(low[0]), float(high[0] - low[0])
    return (view, 0.0, 1.0) if (start, width) == (0.0, 1.0) else (_Scaled(view, start, width).eval(), start, width)


class _Scaled(nn.Module):
    def __init__(self, model: nn.Module, low: float, width: float) -> None:
        super().__init__()
        self.model, self.low, self.width = model, low, width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(self.low + self.width * x)
        return logits


class _Columns(nn.Module):
    def __init__(self, model: nn.Module, single_output: SingleOutput) -> None:
        super().__init__()
        self.model, self.single_output = model, single_output

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return class_logits(self.model, x, self.single_output)


def _in_log_odds(model: EOT, single_output: SingleOutput) -> EOT:
    """The same mean of probabilities by its logarithms, which have a gradient where each draw is rounded to 0 or 1."""
    inner = _Columns(model.model, single_output)
    settings = {name: getattr(model, name) for name in ("samples", "transform", "noise", "max_rows", "memory")}
    return EOT(inner, average="probabilities", **settings).train(model.training)


class _TorchStage(nn.Module):
    """A torch preprocessor of ART, differentiated as it is."""

    def __init__(self, operation: PreprocessorPyTorch) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.operation.forward(x)[0]).to(x.dtype)


class _Standardisation(nn.Module):
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, operation: Any, classifier: PyTorchClassifier) -> None:
        super().__init__()
        image = np.zeros((1, *classifier.input_shape), dtype=np.float32)
        parts = broadcastable_mean_std(image, np.asarray(operation.mean), np.asarray(operation.std))
        mean, std = (torch.as_tensor(part, device=classifier.device) for part in parts)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean.to(x)) / self.std.to(x)


def _stages(classifier: PyTorchClassifier, surrogates: bool) -> list[nn.Module]:
    """The preprocessing at prediction time, in ART's order."""
    stages: list[nn.Module] = []
    for operation in classifier.preprocessing_operations:
        if not operation.apply_predict:
            continue
        if isinstance(operation, (StandardisationMeanStd, StandardisationMeanStdPyTorch)):
            if np.any(np.asarray(operation.mean) != 0) or np.any(np.asarray(operation.std) != 1):
                stages.append(_Standardisation(operation, classifier))
        elif isinstance(operation, PreprocessorPyTorch) and not (surrogates and _flat(operation, classifier)):
            stages.append(_TorchStage(operation))
        else:
            stages.append(BPDA(nn.Identity(), operation))
    return stages


def _flat(operation: PreprocessorPyTorch, classifier: PyTorchClassifier) -> bool:
    """Whether autograd sees no way through a torch preprocessor."""
    if type(operation).estimate_forward is not PreprocessorPyTorch.estimate_forward:
        return True  # it declares a surrogate itself, which BPDA uses
    clip = (0.0, 1.0) if classifier.clip_values is None else classifier.clip_values
    low, high = (np.asarray(end, dtype=np.float32) for end in clip)
    generator = np.random.default_rng(0)
    images = low + (high - low) * generator.random((4, *classifier.input_shape), dtype=np.float32)
    x = torch.as_tensor(images.astype(np.float32), device=classifier.device).requires_grad_(True)
    with torch.enable_grad(), torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        output = operation.forward(x)[0]
        if not output.requires_grad:
            return True
        (gradient,) = torch.autograd.grad(output, x, torch.ones_like(output), allow_unused=True)
    return gradient is None or not bool(gradient.any())
