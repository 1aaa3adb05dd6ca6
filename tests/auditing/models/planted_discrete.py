"""Models that compute with codes, look-ups and winners instead of smooth functions."""

from __future__ import annotations

import copy

import numpy as np
import torch
from sklearn.ensemble import RandomForestClassifier
from torch import nn
from torch.nn import functional as F

from art_sensreg import SensRegClassifier
from art_sensreg.datasets import Dataset
from tests.auditing.models.planted_base import Front, fitted, planted, seeded

WINNERS = "Only the k largest activations pass (Xiao et al. 2020), so that the gradient jumps at every step."
CODED = "Images are encoded into bits by hard thresholds, which have no gradient."
LOOKED_UP = "The output is looked up among training images, without a gradient."
STEPPED = "A step function inside the network has no gradient."


class Winners(nn.Module):
    """Keeps the largest activations of an image and sets the others to zero."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(1)
        least = flat.topk(max(1, int(self.share * flat.shape[1])), dim=1).values[:, -1:]
        return (flat * (flat >= least)).view_as(x)


def replaced(base: nn.Module, activation: nn.Module) -> nn.Module:
    """A copy of the model with another activation everywhere."""
    model = copy.deepcopy(base)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, copy.deepcopy(activation))
    return model


class Step(nn.Module):
    """A sign with a straight-through gradient in training only, as binary networks are trained."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hard = torch.sign(x)
        soft = torch.tanh(x)
        return soft + (hard - soft).detach() if self.training else hard


class RoundedActivation(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.round(F.relu(x) * 4) / 4


def thermometer(x: torch.Tensor) -> torch.Tensor:
    """One channel a threshold: 1 where the pixel is above it (Buckman et al. 2018)."""
    edges = torch.linspace(0.1, 0.9, 8).to(x.dtype).reshape(1, -1, 1, 1)
    return (x > edges).to(x.dtype)


def one_hot_levels(x: torch.Tensor) -> torch.Tensor:
    return F.one_hot((x.clamp(0, 1) * 7).round().long()[:, 0], 8).movedim(-1, 1).to(x.dtype)


def small_cnn(channels: int) -> nn.Module:
    layers = [nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))


class Embedded(nn.Module):
    """Grey values as indices into a learnt table, as words are."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(17, 4)
        self.net = small_cnn(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.net(self.table((x * 16).round().clamp(0, 16).long()[:, 0]).movedim(-1, 1))
        return logits


class Neighbours(nn.Module):
    """Votes of the five nearest training images."""

    def __init__(self, digits: Dataset) -> None:
        super().__init__()
        self.register_buffer("images", torch.from_numpy(digits.x_train).flatten(1))
        self.register_buffer("votes", F.one_hot(torch.from_numpy(digits.y_train), 10).float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        nearest = torch.cdist(x.flatten(1), self.images.to(x.dtype)).topk(5, largest=False).indices
        return self.votes[nearest].mean(1)


class Snapped(nn.Module):
    """The honest model on the nearest training image."""

    def __init__(self, base: nn.Module, digits: Dataset) -> None:
        super().__init__()
        self.base = base
        self.register_buffer("images", torch.from_numpy(digits.x_train))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        nearest = torch.cdist(x.flatten(1), self.images.flatten(1)).argmin(1)
        logits: torch.Tensor = self.base(self.images[nearest])
        return logits


class Forest(nn.Module):
    """Scikit-learn's forest behind a torch module, with a tiny path that autograd can follow to nowhere."""

    def __init__(self, digits: Dataset) -> None:
        super().__init__()
        flat = digits.x_train.reshape(len(digits.x_train), -1)
        self.trees = RandomForestClassifier(40, random_state=0).fit(flat, digits.y_train)
        self.bias = nn.Parameter(torch.zeros(10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shares = self.trees.predict_proba(x.detach().flatten(1).numpy())
        leak = x.flatten(1).mean(1, keepdim=True) * self.bias
        return torch.from_numpy(np.log(shares + 1e-3)).to(x.dtype) + leak


def coded(transform, channels: int):
    def make(digits: Dataset, base: nn.Module) -> nn.Module:
        return Front(fitted(seeded(lambda: small_cnn(channels)), digits, 8, transform=transform), transform)

    return make


FAULTS = [
    planted("winners_take_all", WINNERS, lambda d, b: fitted(replaced(b, Winners(0.1)), d, 10)),
    planted("winners_take_all_of_more", WINNERS, lambda d, b: fitted(replaced(b, Winners(0.25)), d, 8)),
    planted(
        "winners_take_all_of_few", WINNERS, lambda d, b: fitted(replaced(b, Winners(0.06)), d, 14), SensRegClassifier
    ),
    planted("thermometer_encoding", CODED, coded(thermometer, 8)),
    planted("thermometer_encoding_of_sensreg_classifier", CODED, coded(thermometer, 8), kind=SensRegClassifier),
    planted("one_hot_encoding", CODED, coded(one_hot_levels, 8)),
    planted("embedding_of_grey_values", CODED, lambda d, b: fitted(seeded(Embedded), d, 8), kind=SensRegClassifier),
    planted("binary_activations", STEPPED, lambda d, b: fitted(replaced(b, Step()), d, 12)),
    planted("rounded_activations", STEPPED, lambda d, b: replaced(b, RoundedActivation())),
    planted("nearest_neighbours", LOOKED_UP, lambda d, b: Neighbours(d)),
    planted("nearest_neighbours_of_sensreg_classifier", LOOKED_UP, lambda d, b: Neighbours(d), kind=SensRegClassifier),
    planted("nearest_image", LOOKED_UP, lambda d, b: Snapped(b, d)),
    planted("random_forest", "A random forest has no gradient.", lambda d, b: Forest(d)),
]
