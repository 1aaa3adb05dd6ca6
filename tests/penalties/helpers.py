"""Small data and what several tests of penalties measure by hand."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from art_sensreg import SensRegClassifier
from art_sensreg.utils.model_rng import Replay, random_sources

X, Y = np.random.default_rng(0).random((48, 8), dtype=np.float32), np.arange(48) % 3
quiet = pytest.mark.filterwarnings("ignore:Clean and perturbed images")


def by_weights(net, value):
    """`value(model)` as a function of the net's parameters, and those parameters as leaves: what gradcheck takes."""
    names, values = zip(*net.named_parameters(), strict=True)

    class Bound(nn.Module):
        def __init__(self, values):
            super().__init__()
            self.values = values

        def forward(self, x):
            return functional_call(net, dict(zip(names, self.values, strict=True)), (x,))

    leaves = [parameter.detach().clone().requires_grad_() for parameter in values]
    return (lambda *values: value(Bound(values))), leaves


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def built(make, seed=0):
    torch.manual_seed(seed)
    return make().train()


def batch(rows=16):
    return torch.from_numpy(X[:rows]), torch.from_numpy(Y[:rows])


def by_hand(net, x, sigma):
    """JR of a model alone: two passes with the same draws, from the same state."""
    noisy = x + sigma * torch.randn(x.shape, generator=generator())
    replay = Replay(random_sources(net, x.device))
    logits = []
    for inputs in (x, noisy):
        with replay:
            logits.append(copy.deepcopy(net)(inputs))
    return (logits[1] - logits[0]).pow(2).sum(1).mean() / sigma**2 / 2


def classifier(net):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    return SensRegClassifier(net, nn.CrossEntropyLoss(), (8,), 3, optimizer=optimizer, device_type="cpu")


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Linear(2, 6)
        self.layer = nn.TransformerEncoderLayer(6, 2, dim_feedforward=4, dropout=0.0, batch_first=True)
        self.head = nn.Linear(18, 3)

    def forward(self, x):
        return self.head(self.layer(self.embedding(x.view(-1, 3, 2))).flatten(1))


def slopes(value, weight, step=1e-5):
    """The slope of `value()` along a random direction of a weight: by autograd, and by central differences."""
    (gradient,) = torch.autograd.grad(value(), weight)
    direction = torch.randn(weight.shape, dtype=weight.dtype, generator=generator(2))
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(sign * step * direction)
        values.append(value().item())
        with torch.no_grad():
            weight.sub_(sign * step * direction)
    return (gradient * direction).sum().item(), (values[0] - values[1]) / (2 * step)
