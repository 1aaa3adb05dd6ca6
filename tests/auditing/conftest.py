"""Models that most tests of the audit look at."""

from __future__ import annotations

import pytest
from art.estimators.classification import PyTorchClassifier

from art_sensreg.datasets import Dataset
from tests.auditing.models.honest import honest_model


@pytest.fixture(scope="session")
def plain(digits: Dataset) -> PyTorchClassifier:
    """A convolutional network."""
    return honest_model("plain", digits)[0]


@pytest.fixture(scope="session")
def tiny(digits: Dataset) -> PyTorchClassifier:
    """A network that is attacked quickly."""
    return honest_model("tiny_mlp", digits)[0]
