"""An ART classifier as one differentiable module: its preprocessing and its model, in the user's units."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from art.defences.preprocessor.preprocessor import PreprocessorPyTorch
from art.estimators.classification import PyTorchClassifier
from art.preprocessing.standardisation_mean_std.numpy import StandardisationMeanStd
from art.preprocessing.standardisation_mean_std.pytorch import StandardisationMeanStdPyTorch
from torch import nn

from art_sensreg.art_bridge.dtypes import model_dtype
from art_sensreg.art_bridge.preprocessing import PreprocessedModel, copies_per_image, standardised
from art_sensreg.art_bridge.whole_model import predicting_model
from art_sensreg.attacks.wrappers.bpda import BPDA
from art_sensreg.attacks.wrappers.eot import EOT
from art_sensreg.outputs import SingleOutput, class_logits
from art_sensreg.utils.model_rng import preserve_rng_state


def check_classifier(classifier: Any) -> PyTorchClassifier:
    """Refuse anything but ART's PyTorch classifiers, whose model attacks can see."""
    if not isinstance(classifier, PyTorchClassifier):
        raise TypeError(
            f"`classifier` is {type(classifier).__name__}; expected ART's PyTorchClassifier, or a subclass such as "
            "SensRegClassifier."
        )
    return classifier


def differentiable_model(classifier: PyTorchClassifier, surrogates: bool = True) -> nn.Module:
    """
    A classifier as one module, so that attacks outside ART see its preprocessing too.

    :param classifier: ART classifier, with any preprocessing.
    :param surrogates: Whether torch preprocessors with a zero gradient are differentiated straight through (BPDA);
        False: the gradient is the one that ART's attacks see.
    :return: Module from images in the user's units to logits `(n, C)`, in evaluation mode. Postprocessing is left out.
    :raises TypeError: If it is not one of ART's PyTorch classifiers.

    Example:
    >>> from art_sensreg.attacks import differentiable_model
    >>> settings = {"preprocessing": (0.5, 2.0), "device_type": "cpu"}
    >>> classifier = PyTorchClassifier(nn.Identity(), nn.CrossEntropyLoss(), (2,), 2, **settings)
    >>> differentiable_model(classifier)(torch.tensor([[0.5, 2.5]]))
    tensor([[0., 1.]])
    """
    return _DifferentiableModel(classifier, surrogates).eval()


class _DifferentiableModel(nn.Module):
    """
    What a classifier computes before its postprocessing.

    The classifier's own model is inside, not a copy: in evaluation mode only while `eval` was called on this module.
    """

    def __init__(self, classifier: PyTorchClassifier, surrogates: bool) -> None:
        super().__init__()
        self.classifier_model = predicting_model(check_classifier(classifier))
        self.single_output, self.copies = SingleOutput.of(classifier), copies_per_image(classifier)
        if isinstance(self.classifier_model, EOT) and self.single_output.kind == "probability":
            self.classifier_model = _in_log_odds(self.classifier_model, self.single_output)
        self.layers = nn.ModuleList(_layers(classifier, surrogates))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype, n = x.dtype, len(x)
        x = x.to(model_dtype(self.classifier_model))
        for layer in self.layers:
            x = layer(x)
        averaged = self.copies if len(x) == n * self.copies else 1
        logits = class_logits(self.classifier_model, x, self.single_output, averaged)
        if len(logits) != n:
            raise ValueError(
                f"`classifier` returns {len(logits)} outputs for {n} images; expected one for each image, or a "
                "preprocessor of ART's EoTPyTorch, whose copies are averaged."
            )
        return logits.to(dtype)


class _TwoLogits(nn.Module):
    """A model with a single output as one with two logits."""

    def __init__(self, model: nn.Module, single_output: SingleOutput) -> None:
        super().__init__()
        self.model, self.single_output = model, single_output

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return class_logits(self.model, x, self.single_output)


def _in_log_odds(model: EOT, single_output: SingleOutput) -> EOT:
    """The mean of probabilities from their logarithms, which have a gradient even if draws round to 0 or 1."""
    settings = {name: getattr(model, name) for name in ("samples", "transform", "noise", "max_rows", "memory")}
    return EOT(_TwoLogits(model.model, single_output), average="probabilities", **settings).train(model.training)


def _layers(classifier: PyTorchClassifier, surrogates: bool) -> list[nn.Module]:
    """The preprocessing at prediction time, in ART's order."""
    layers: list[nn.Module] = []
    for operation in classifier.preprocessing_operations:
        if not operation.apply_predict:
            continue
        if isinstance(operation, (StandardisationMeanStd, StandardisationMeanStdPyTorch)):
            layers.append(standardised(nn.Identity(), operation, classifier))
        elif isinstance(operation, PreprocessorPyTorch) and not (surrogates and _is_flat(operation, classifier)):
            layers.append(PreprocessedModel(nn.Identity(), operation))
        else:
            layers.append(BPDA(nn.Identity(), operation))
    return layers


def _is_flat(operation: PreprocessorPyTorch, classifier: PyTorchClassifier) -> bool:
    """Whether the gradient through a torch preprocessor is zero, or does not exist."""
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
