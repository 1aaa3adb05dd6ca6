"""Random models whose distribution is known."""

import torch
import torch.nn.functional as F
from torch import nn

from art_sensreg.models import build_model
from art_sensreg.randomized import RandomizedClassifier


class Random(nn.Module):
    """A linear model with noise on examples, on weights, or both; it records the batch sizes of its forward passes."""

    def __init__(self, rows=0.0, weights=0.0, features=4, classes=3):
        super().__init__()
        self.linear = nn.Linear(features, classes)
        self.rows, self.weights = rows, nn.Parameter(torch.tensor(weights))
        self.calls = []

    def forward(self, x):
        self.calls.append(len(x))
        x = x.flatten(1)
        noise = self.rows * torch.randn_like(x)
        weight = self.linear.weight + self.weights * torch.randn_like(self.linear.weight)
        return F.linear(x + noise, weight, self.linear.bias)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Noisy(nn.Module):
    """A model with Gaussian noise on its inputs, in both modes; it records the batch sizes of its forward passes."""

    def __init__(self, model, std=0.3):
        super().__init__()
        self.model, self.std = model, std
        self.rows = []

    def forward(self, x):
        self.rows.append(len(x))
        return self.model(x + self.std * torch.randn_like(x))


def noisy_classifier(digits, std=0.3, kind=RandomizedClassifier, name="mlp", **kwargs):
    torch.manual_seed(0)
    model = Noisy(build_model(name, digits.input_shape, 10), std)
    kwargs.setdefault("optimizer", torch.optim.Adam(model.parameters(), lr=3e-3))
    kwargs = {"clip_values": (0.0, 1.0), "device_type": "cpu", **kwargs}
    return kind(model, nn.CrossEntropyLoss(), digits.input_shape, 10, **kwargs)
