"""Models for tests of the official AutoAttack, and pyautoattack called directly."""

import functools

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg import SensRegClassifier
from tests.support.fixed_weights import fixed

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


def directly(model, x, y, batch_size=250, classes=10, **settings):
    """What the package does when called as in its readme; strength is set as its users set it."""
    nb_iter, nb_queries = settings.pop("nb_iter", None), settings.pop("nb_queries", None)
    settings = {"seed": 0, "device": "cpu", **settings, "norm": THEIRS[settings["norm"]]}
    theirs = pytest.importorskip("pyautoattack").AutoAttack(model, **settings)
    if nb_iter is not None:
        theirs.fab.n_iter = nb_iter
        for attack in (theirs.apgd, theirs.apgd_targeted):
            attack.n_iter = attack.n_iter_orig = nb_iter
            attack.n_iter_2 = max(int(0.22 * nb_iter), 1)
            attack.n_iter_min = max(int(0.06 * nb_iter), 1)
            attack.size_decr = max(int(0.03 * nb_iter), 1)
    theirs.square.n_queries = nb_queries or theirs.square.n_queries
    for attack in (theirs.apgd_targeted, theirs.fab):
        attack.n_target_classes = min(attack.n_target_classes, classes - 1)
    perturbed, predicted = theirs.run_standard_evaluation(
        torch.from_numpy(x), torch.from_numpy(y), batch_size=batch_size
    )
    return perturbed.numpy(), (predicted.numpy() == y)
