"""Honest models whose architecture or interface looks odd to a check."""

from __future__ import annotations

from dataclasses import replace

import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn
from torch.nn import functional as F

from art_sensreg import SensRegClassifier
from art_sensreg.datasets import Dataset
from tests.auditing.models.honest_base import honest, suite_model, trained
from tests.auditing.models.honest_modules import Recurrent, Scale, Tokens
from tests.auditing.models.planted_base import Back, Front, fitted, preprocessor, seeded, wrap


@honest
def clamped_input(digits: Dataset) -> PyTorchClassifier:
    """Clamping to the range that images have anyway, where many pixels lie exactly on its ends."""
    # Not `nn.Hardtanh`, whose gradient is zero on the ends: that one is a planted fault.
    return trained(digits, lambda: Front(suite_model(digits)(), lambda x: x.clamp(0, 1)))


@honest
def cropped_input(digits: Dataset) -> PyTorchClassifier:
    """The border is not looked at, so that its gradient is zero."""
    inner = replace(digits, x_train=digits.x_train[:, :, :, 1:7])
    return trained(digits, lambda: Front(suite_model(inner)(), lambda x: x[:, :, :, 1:7]))


@honest
def blurred_in_preprocessor(digits: Dataset) -> PyTorchClassifier:
    """A torch preprocessor of ART that autograd goes through."""
    model = fitted(seeded(suite_model(digits)), digits, 12, transform=blurred)
    return wrap(digits, model, preprocessing_defences=preprocessor(blurred)())


def blurred(x: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1)


@honest
def transformer(digits: Dataset) -> PyTorchClassifier:
    """Attention within the image; torch's fast path in evaluation mode differs from the other by rounding."""

    def net() -> nn.Module:
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
        return nn.Sequential(Tokens(32), layer, nn.Flatten(), nn.Linear(512, 10))

    return trained(digits, net)


@honest
def recurrent(digits: Dataset) -> PyTorchClassifier:
    """ART takes gradients of recurrent models in training mode."""
    return trained(digits, Recurrent, epochs=20, lr=1e-2)


@honest
def standardised(digits: Dataset) -> PyTorchClassifier:
    mean, std = float(digits.x_train.mean()), float(digits.x_train.std())
    model = fitted(seeded(suite_model(digits)), digits, 12, transform=lambda x: (x - mean) / std)
    return wrap(digits, model, preprocessing=(mean, std))


@honest
def float64(digits: Dataset) -> PyTorchClassifier:
    return trained(digits, lambda: suite_model(digits)().double(), kind=SensRegClassifier)


@honest
def log_softmax(digits: Dataset) -> PyTorchClassifier:
    """Logits less a constant per row: as good as logits."""
    return trained(digits, lambda: Back(suite_model(digits)(), lambda z: F.log_softmax(z, 1)))


@honest
def nll_loss(digits: Dataset) -> PyTorchClassifier:
    model = nn.Sequential(fitted(seeded(suite_model(digits)), digits, 12), nn.LogSoftmax(dim=1))
    return wrap(digits, model, loss=nn.NLLLoss())


@honest
def grey_values_to_255(digits: Dataset) -> PyTorchClassifier:
    """Takes images from 0 to 255; see `honest_data`."""
    model = fitted(seeded(suite_model(digits)), digits, 12, transform=lambda x: x / 255)
    return SensRegClassifier(
        nn.Sequential(Scale(), model),
        nn.CrossEntropyLoss(),
        digits.input_shape,
        10,
        clip_values=(0.0, 255.0),
        device_type="cpu",
    )


@honest
def two_classes(digits: Dataset) -> PyTorchClassifier:
    """Threes against eights; see `honest_data`."""
    return trained(digits, suite_model(digits))
