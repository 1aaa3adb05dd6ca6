"""Small classifiers to be saved and loaded, and how tests of that compare them."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg import SensRegClassifier

X = np.linspace(0, 1, 24, dtype=np.float32).reshape(8, 3)
Y = np.arange(8) % 2


def make(width=4, optimizer=torch.optim.Adam, **kwargs):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 2))
    made = None if optimizer is None else optimizer(model.parameters(), lr=0.01)
    kwargs = {"penalties": [], **kwargs}
    return SensRegClassifier(model, nn.CrossEntropyLoss(), (3,), 2, optimizer=made, device_type="cpu", **kwargs)


def trained(*args, **kwargs):
    classifier = make(*args, **kwargs)
    classifier.fit(X, Y, batch_size=4, nb_epochs=1, seed=0)
    return classifier


def snapshot(classifier):
    return copy.deepcopy((classifier.model.state_dict(), classifier.optimizer and classifier.optimizer.state_dict()))


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def refused(classifier, folder, message, kind=ValueError):
    before = snapshot(classifier)
    with pytest.raises(kind, match=message) as caught:
        classifier.load_weights("net", str(folder))
    assert "\n" not in str(caught.value)
    assert same(snapshot(classifier), before)
