"""Plausibility: what no classifier can reach on these points, and what none has published."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.auditing.checks.plausibility import PUBLISHED, allowed_by_labels
from tests.auditing.reports import context_of


def context(x, y, eps, shape=(1, 2, 2), norm="linf", classes=10):
    model = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), classes))
    settings = {"clip_values": (0.0, 1.0), "device_type": "cpu"}
    classifier = PyTorchClassifier(model, nn.CrossEntropyLoss(), shape, classes, **settings)
    return context_of(classifier, x, y, eps=eps, norm=norm)


def most_that_can_hold(meets):
    """Size of the largest set of points without two that meet, by trying every set."""
    n = len(meets)
    sets = (chosen for size in range(n, 0, -1) for chosen in itertools.combinations(range(n), size))
    return next(len(chosen) for chosen in sets if not meets[np.ix_(chosen, chosen)].any())


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_bound_by_labels_is_never_below_what_some_classifier_reaches(norm):
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    rng = np.random.default_rng(0)
    bounded = 0
    for _ in range(20):
        x, y = rng.random((9, 1, 2, 2), dtype=np.float32), rng.integers(0, 3, 9)
        flat = x.reshape(9, -1).astype(np.float64)
        distance = np.linalg.norm(flat[:, None] - flat, ord=order, axis=2)
        meets = (distance <= 0.5) & (y[:, None] != y)
        allowed = allowed_by_labels(context(x, y, 0.25, norm=norm))
        assert allowed >= most_that_can_hold(meets) / 9 - 1e-12
        assert (allowed < 1) == meets.any()
        bounded += allowed < 1
    assert bounded


@pytest.mark.parametrize(
    ("shape", "norm", "eps", "classes", "bounded"),
    [
        ((1, 28, 28), "linf", 0.3, 10, True),
        ((1, 28, 28), "linf", 0.35, 10, True),
        ((1, 28, 28), "linf", 0.2, 10, False),
        ((1, 28, 28), "l2", 0.3, 10, False),
        ((1, 28, 28), "linf", 0.3, 2, False),
        ((3, 32, 32), "linf", 8 / 255, 10, True),
        ((1, 8, 8), "linf", 0.3, 10, False),
    ],
)
def test_published_figures_bound_the_same_images_at_the_same_size_or_a_larger_one(shape, norm, eps, classes, bounded):
    x, y = np.zeros((2, *shape), np.float32), np.array([0, 1])
    found = context(x, y, eps, shape, norm, classes)
    assert any(entry.bounds(found) for entry in PUBLISHED) == bounded
