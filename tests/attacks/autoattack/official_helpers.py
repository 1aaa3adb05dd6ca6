"""A smoothed network of the digits, and linear ones, for tests of the official AutoAttack."""

import functools

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg import SensRegClassifier
from tests.fixed_weights import fixed

THEIRS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
ORDER = {"linf": np.inf, "l2": 2, "l1": 1}
EPS = {"linf": 0.12, "l2": 0.7, "l1": 1.5}
WEAK = {"nb_iter": 5, "nb_queries": 10}


@functools.cache
def smoothed():
    """About half of the images withstand `EPS`, so that every stage has work to do."""
    settings = {"clip_values": (0.0, 1.0), "device_type": "cpu"}
    return SensRegClassifier(fixed("mlp-smoothed"), nn.CrossEntropyLoss(), (1, 8, 8), 10, **settings)


def linear(shape, classes, seed=0, **kwargs):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), classes))
    kwargs = {"clip_values": (0.0, 1.0), "device_type": "cpu", **kwargs}
    return PyTorchClassifier(model, nn.CrossEntropyLoss(), shape, classes, **kwargs)
