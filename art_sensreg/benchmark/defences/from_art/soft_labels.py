"""
ART's defences by soft labels: label smoothing, and defensive distillation as shipped and fixed.

Label smoothing (Warde-Farley and Goodfellow 2016) spreads some of the label's probability over the other classes.
Defensive distillation (Papernot et al. 2016, arXiv 1511.04508) trains a first network at a high temperature, a second
one at the same temperature on the first one's probabilities, and predicts at temperature 1: its logits are then so
large that the gradient of cross-entropy vanishes in single precision, which stops attacks that follow this gradient
and no others (Carlini and Wagner 2017, arXiv 1608.04644).

In ART 1.20.1 both run as shipped. Traps: `DefensiveDistillation` has no temperature, without which the soft labels are
nearly hard ones; both networks must return probabilities, and the second one's loss must take soft labels (torch's
`CrossEntropyLoss` would take their softmax once more); the learning rate of the optimizer stays as it is.
"""

from __future__ import annotations

import torch
from art.defences.preprocessor import LabelSmoothing
from art.defences.transformer.evasion import DefensiveDistillation
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.benchmark.defences.claims import robust_accuracy
from art_sensreg.benchmark.defences.from_art.adversarial import art_one_cycle
from art_sensreg.benchmark.defences.spec import Defence, Options, within
from art_sensreg.benchmark.defences.train_spec import TrainingSpec

# ART's own default.
LABEL_SMOOTHING_OPTIONS: Options = {"max_value": 0.9}
DISTILLATION_OPTIONS: Options = {"learning_rate": 1e-3}
# The paper tries 1 to 100; its main results are at 20.
DISTILLATION_FIXED_OPTIONS: Options = {"temperature": 20.0, **DISTILLATION_OPTIONS}


class AtTemperature(nn.Module):
    """The probabilities of a network, which returns logits, at a temperature: ART's distillation asks for them."""

    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__()
        self.network, self.temperature = network, temperature

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.network(x) / self.temperature, dim=1)


class SoftCrossEntropy(nn.Module):
    """Cross-entropy of probabilities with probabilities, smoothed if asked for, mean over the examples."""

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, probabilities: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self.label_smoothing:
            labels = (1 - self.label_smoothing) * labels + self.label_smoothing / labels.shape[1]
        logarithms = probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()
        return -(labels * logarithms).sum(dim=1).mean()


def train_label_smoothing(spec: TrainingSpec, options: Options) -> PyTorchClassifier:
    """ART's `fit` on labels from `LabelSmoothing`, on a one-cycle schedule, which ART steps once an epoch."""
    classifier = spec.art_classifier()
    schedule = art_one_cycle(spec, classifier.optimizer)
    smoothing = LabelSmoothing(max_value=options["max_value"])
    with spec.hooked(classifier.optimizer, classifier.model):
        for images, epochs in spec.epochs_of_images():
            x, y = smoothing(images, spec.one_hot)
            classifier.fit(x, y, batch_size=spec.batch_size, nb_epochs=epochs, scheduler=schedule)
    return classifier


def train_distillation(spec: TrainingSpec, options: Options) -> PyTorchClassifier:
    """`DefensiveDistillation` as shipped: at temperature 1. The classifier returns logits."""
    return _distil(spec, 1.0, options["learning_rate"])


def train_distillation_fixed(spec: TrainingSpec, options: Options) -> PyTorchClassifier:
    """`DefensiveDistillation` of networks that are trained at the paper's temperature and predict at 1."""
    return _distil(spec, options["temperature"], options["learning_rate"])


def _distil(spec: TrainingSpec, temperature: float, learning_rate: float) -> PyTorchClassifier:
    first, second = (_at_temperature(spec, temperature, learning_rate) for _ in range(2))
    with spec.hooked(first.optimizer, first.model):
        for x, epochs in spec.epochs_of_images():
            first.fit(x, spec.one_hot, batch_size=spec.batch_size, nb_epochs=epochs)
    with spec.hooked(second.optimizer, second.model):
        for x, epochs in spec.epochs_of_images():
            DefensiveDistillation(first, batch_size=spec.batch_size, nb_epochs=epochs)(x, second)
    return spec.classifier(second.model.network)


def _at_temperature(spec: TrainingSpec, temperature: float, learning_rate: float) -> PyTorchClassifier:
    model = AtTemperature(spec.new_model(), temperature)
    optimizer = spec.optimizer(model.parameters(), learning_rate)
    return spec.estimator(PyTorchClassifier, model, optimizer, loss=SoftCrossEntropy(spec.loss().label_smoothing))


_DISTILLATION_PAPER = "Papernot et al. 2016, arXiv 1511.04508"

SOFT_LABELS = (
    Defence(
        "art-label-smoothing",
        "ART LabelSmoothing of the training labels",
        "Warde-Farley and Goodfellow 2016, Perturbations, Optimization, and Statistics, chapter 11",
        LABEL_SMOOTHING_OPTIONS,
        robust_accuracy("evasion within eps", "its gain at the smaller eps is within the sampling error"),
        training=train_label_smoothing,
        ours=False,
        check=within(above_zero=("max_value",), at_most_one=("max_value",)),
    ),
    Defence(
        "art-distillation",
        "ART DefensiveDistillation as shipped: no temperature",
        _DISTILLATION_PAPER,
        DISTILLATION_OPTIONS,
        robust_accuracy("evasion within eps", "without a temperature the soft labels are nearly hard"),
        training=train_distillation,
        ours=False,
        check=within(above_zero=("learning_rate",)),
    ),
    Defence(
        "art-distillation-fixed",
        "ART DefensiveDistillation, fixed",
        _DISTILLATION_PAPER,
        DISTILLATION_FIXED_OPTIONS,
        robust_accuracy(
            "evasion within eps", "it hides only the gradient of cross-entropy: attacks on margins see through it"
        ),
        training=train_distillation_fixed,
        repaired="both networks are trained at the paper's temperature, and predict at 1",
        check=within(above_zero=("learning_rate", "temperature")),
    ),
)
