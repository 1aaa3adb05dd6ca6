"""
ART's defences by soft labels as rows: label smoothing, and defensive distillation, as shipped and repaired.

Label smoothing (Warde-Farley and Goodfellow 2016) shares out some of the label's probability among the other classes.
Defensive distillation (Papernot et al. 2016, arXiv 1511.04508) trains a first network at a high temperature, a second
one at the same temperature on the first one's probabilities, and predicts at temperature 1: its logits are then so
large that the gradient of cross-entropy vanishes in single precision, which stops attacks by that gradient and no
others (Carlini and Wagner 2017, arXiv 1608.04644).

In ART 1.20.1 both run as shipped. Traps: `DefensiveDistillation` knows no temperature, without which the soft labels
are nearly hard ones; both networks must return probabilities, and the second one's loss must take soft labels (torch's
`CrossEntropyLoss` would take another softmax of them); the learning rate stays what the optimizer's is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from art.defences.preprocessor import LabelSmoothing
from art.defences.transformer.evasion import DefensiveDistillation
from art.estimators.classification import PyTorchClassifier
from art.utils import to_categorical
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from art_sensreg.benchmark.defences.train_spec import TrainingSpec

Options = dict[str, Any]

# ART's own default.
LABEL_SMOOTHING_OPTIONS: Options = {"max_value": 0.9}
DISTILLATION_OPTIONS: Options = {"learning_rate": 1e-3}
# The paper tries 1 to 100; its main results are at 20.
DISTILLATION_FIXED_OPTIONS: Options = {"temperature": 20.0, **DISTILLATION_OPTIONS}


class AtTemperature(nn.Module):
    """
    The probabilities of a network at a temperature, as ART's distillation asks them of both networks.

    :param network: The network, which returns logits.
    :param temperature: What they are divided by.
    """

    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__()
        self.network, self.temperature = network, temperature

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.network(x) / self.temperature, dim=1)


class SoftCrossEntropy(nn.Module):
    """Cross-entropy of probabilities with probabilities, mean over the rows."""

    def forward(self, probabilities: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logarithms = probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()
        return -(labels * logarithms).sum(dim=1).mean()


def _labels(spec: TrainingSpec) -> np.ndarray:
    labels: np.ndarray = to_categorical(spec.dataset.y_train, spec.dataset.nb_classes)
    return labels


def train_label_smoothing(spec: TrainingSpec, options: Options) -> PyTorchClassifier:
    """
    ART's `fit` on labels from `LabelSmoothing`, on a one-cycle schedule, which ART steps once an epoch.

    :param spec: The training spec.
    :param options: As `LABEL_SMOOTHING_OPTIONS`.
    :return: The trained classifier.
    """
    classifier = spec.art_classifier()
    # One step more than epochs: the last epoch would otherwise train at a rate of nearly 0.
    schedule = OneCycleLR(classifier.optimizer, spec.learning_rate, total_steps=max(spec.epochs + 1, 3))
    x, y = LabelSmoothing(max_value=options["max_value"])(spec.dataset.x_train, _labels(spec))
    classifier.fit(x, y, batch_size=spec.batch_size, nb_epochs=spec.epochs, scheduler=schedule)
    return classifier


def train_distillation(spec: TrainingSpec, options: Options) -> PyTorchClassifier:
    """
    `DefensiveDistillation` as shipped: at temperature 1.

    :param spec: The training spec.
    :param options: As `DISTILLATION_OPTIONS`.
    :return: The trained classifier, which returns logits.
    """
    return _distil(spec, 1.0, options["learning_rate"])


def train_distillation_fixed(spec: TrainingSpec, options: Options) -> PyTorchClassifier:
    """
    `DefensiveDistillation` of networks that are trained at the paper's temperature and predict at 1.

    :param spec: The training spec.
    :param options: As `DISTILLATION_FIXED_OPTIONS`.
    :return: The trained classifier, which returns logits.
    """
    return _distil(spec, options["temperature"], options["learning_rate"])


def _distil(spec: TrainingSpec, temperature: float, learning_rate: float) -> PyTorchClassifier:
    first, second = (_at_temperature(spec, temperature, learning_rate) for _ in range(2))
    first.fit(spec.dataset.x_train, _labels(spec), batch_size=spec.batch_size, nb_epochs=spec.epochs)
    DefensiveDistillation(first, batch_size=spec.batch_size, nb_epochs=spec.epochs)(spec.dataset.x_train, second)
    return spec.classifier(second.model.network)


def _at_temperature(spec: TrainingSpec, temperature: float, learning_rate: float) -> PyTorchClassifier:
    model = AtTemperature(spec.new_model(), temperature)
    return PyTorchClassifier(
        model,
        SoftCrossEntropy(),
        spec.dataset.input_shape,
        spec.dataset.nb_classes,
        optimizer=torch.optim.Adam(model.parameters(), lr=learning_rate),
        clip_values=(0.0, 1.0),
        device_type="gpu" if spec.device == "cuda" else "cpu",
    )
