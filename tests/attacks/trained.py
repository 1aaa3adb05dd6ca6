"""A trained network, and broken models around it whose gradients mislead an attack."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.attacks.base.norms import Ball
from art_sensreg.attacks.projected_ascent import Victim
from art_sensreg.attacks.wrappers.torch_model import differentiable_model
from art_sensreg.datasets import Dataset, load_dataset
from tests.support.fixed_weights import fixed


@functools.cache
def digits_data() -> Dataset:
    return load_dataset("digits")


def trained(seed: int = 0) -> nn.Module:
    """Accuracy about 0.97, robust accuracy at L-inf 0.15 about 0.1."""
    return fixed("mlp" if seed == 0 else f"mlp-{seed}")


def wrap(model: nn.Module, kind: Any = PyTorchClassifier, **settings: Any) -> PyTorchClassifier:
    settings = {"clip_values": (0.0, 1.0), "device_type": "cpu", **settings}
    return kind(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, **settings)


def points(n: int = 100) -> tuple[np.ndarray, np.ndarray]:
    return digits_data().x_test[:n].copy(), digits_data().y_test[:n].copy()


def accuracy(classifier: PyTorchClassifier, x: np.ndarray, y: np.ndarray) -> float:
    return float((classifier.predict(x).argmax(axis=1) == y).mean())


LINF = {"eps": 0.15, "max_iter": 20}


def victim_of(classifier, x, y, pool=None, restart=0, eps=0.15):
    model = differentiable_model(classifier)
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    return Victim(model, x, y, Ball("linf", eps, 0.0, 1.0), restart, torch.Generator().manual_seed(0), pool or (x, y))


class Around(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


class Scaled(Around):
    """Logits times a number: the softmax is 0 or 1, its gradient exactly zero."""

    def __init__(self, model: nn.Module, scale: float) -> None:
        super().__init__(model)
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * self.model(x)


class Saturated(Around):
    """Probabilities that are 0 and 1 in float32, so that their gradient is lost before any logit is scaled."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(20 * self.model(x), dim=1)


class RoundedLogits(Around):
    """No gradient comes back through the last layer, while the hidden activations still move."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.round(self.model(x))


class Detached(Around):
    """Autograd finds no path to the images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x.detach())


class Quantised(Around):
    """The images are rounded to levels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(quantise(x))


class Plateau(Around):
    """Constant within a mean square distance of known images, and the model itself farther away."""

    def __init__(self, model: nn.Module, known: np.ndarray, radius: float) -> None:
        super().__init__(model)
        self.known = torch.from_numpy(known)
        self.radius = radius

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        nearest = self.known[torch.cdist(x.flatten(1), self.known.flatten(1)).argmin(1)]
        far = (x - nearest).pow(2).flatten(1).mean(1).sqrt() > self.radius
        return torch.where(far[:, None], self.model(x), self.model(nearest))


class Noisy(Around):
    """Draws from torch's global generator in every forward pass."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x + 0.05 * torch.randn_like(x))


def quantise(x: torch.Tensor) -> torch.Tensor:
    return torch.round(x * 8) / 8
