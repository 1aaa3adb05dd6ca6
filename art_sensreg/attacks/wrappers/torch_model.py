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

from art_sensreg.art_bridge.dtypes import model_dtype
from art_sensreg.art_bridge.preprocessing import rows_an_image
from art_sensreg.art_bridge.whole_model import predicting_model
from art_sensreg.attacks.wrappers.bpda import BPDA
from art_sensreg.attacks.wrappers.eot import EOT
from art_sensreg.outputs import SingleOutput, class_logits
from art_sensreg.utils import shown
from art_sensreg.utils.model_rng import preserve_rng_state


def check_classifier(classifier: Any) -> PyTorchClassifier:
    """
    Check that attacks can see a classifier's model.

    :param classifier: What came.
    :return: The same.
    :raises TypeError: If it is not one of ART's PyTorch classifiers.

    Example:
    >>> from art_sensreg.attacks.wrappers.torch_model import check_classifier
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
    >>> from art_sensreg.attacks.wrappers.torch_model import unit_box_model
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
    with torch.enable_grad(), preserve_rng_state(x.device):
        output = operation.forward(x)[0]
        if not output.requires_grad:
            return True
        (gradient,) = torch.autograd.grad(output, x, torch.ones_like(output), allow_unused=True)
    return gradient is None or not bool(gradient.any())
