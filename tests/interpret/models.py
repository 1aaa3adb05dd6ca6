"""Models whose right explanation is known."""

import numpy as np
import torch
from torch import nn

from art_sensreg import SensRegClassifier

SHAPE = (2, 4, 4)
# Only these pixels say anything about class 0.
MASK = np.zeros((4, 4), dtype=bool)
MASK[1, 2] = MASK[2, 0] = MASK[3, 3] = True


def images(n=5, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).uniform(0.2, 1.0, (n, *shape)).astype(np.float32)


def linear_classifier(weights=None, shape=SHAPE, classes=3, kind=SensRegClassifier, **kwargs):
    """Logits `W x`; by default class 0 depends on the masked pixels only, in a known order, and the others on none."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), classes, bias=False))
    if weights is None:
        weights = np.zeros((classes, *shape), dtype=np.float32)
        weights[0][:, MASK] = [[3.0, 1.0, 2.0]] * shape[0]
    model[1].weight.data = torch.tensor(weights.reshape(classes, -1))
    return kind(model, nn.CrossEntropyLoss(), shape, classes, device_type="cpu", **kwargs), weights


def smooth_classifier(shape=SHAPE, classes=3, **kwargs):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 16), nn.Tanh(), nn.Linear(16, classes))
    return SensRegClassifier(model, nn.CrossEntropyLoss(), shape, classes, device_type="cpu", **kwargs)
