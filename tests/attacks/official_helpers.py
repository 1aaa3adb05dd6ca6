"""A smoothed network of the digits, and linear ones, for tests of the official AutoAttack."""

import functools

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg import SensitivityPenalty, SensRegClassifier
from art_sensreg.datasets import load_dataset
from art_sensreg.models import build_model

THEIRS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
ORDER = {"linf": np.inf, "l2": 2, "l1": 1}
EPS = {"linf": 0.12, "l2": 0.7, "l1": 1.5}
WEAK = {"nb_iter": 5, "nb_queries": 10}


@functools.cache
def smoothed():
    """About half of the images withstand `EPS`, so that every stage has work to do."""
    data, loss = load_dataset("digits"), nn.CrossEntropyLoss()
    torch.manual_seed(0)
    model = build_model("mlp", data.input_shape, 10, "relu", "none")
    classifier = SensRegClassifier(
        model,
        loss,
        data.input_shape,
        10,
        optimizer=torch.optim.Adam(model.parameters(), lr=3e-3),
        clip_values=(0.0, 1.0),
        penalties=[SensitivityPenalty(sigma=0.2)],
    )
    classifier.fit(data.x_train, data.y_train, nb_epochs=10, batch_size=64, seed=0)
    return classifier


def linear(shape, classes, seed=0, **kwargs):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), classes))
    kwargs.setdefault("clip_values", (0.0, 1.0))
    return PyTorchClassifier(model, nn.CrossEntropyLoss(), shape, classes, **kwargs)
