from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg import SensRegClassifier
from art_sensreg.datasets import Dataset, load_dataset
from art_sensreg.models import build_model

# Bounds hold with any number of threads; one is the fastest for small networks and several processes.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):  # the keywords have the names of folders too
                item.add_marker(pytest.mark.skip(reason="needs CUDA, and torch sees no GPU"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT interrupts, also where the tests run in the background of a shell, which ignores it there."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with mnist.npz: ART_SENSREG_DATA, or shared/data beside the checkout."""
    folder = Path(os.environ.get("ART_SENSREG_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not (folder / "mnist.npz").exists():
        pytest.skip("no mnist.npz in ART_SENSREG_DATA or ../shared/data")
    return folder


MakeClassifier = Callable[..., SensRegClassifier]


@pytest.fixture
def make_classifier(digits: Dataset) -> MakeClassifier:
    def make(name: str = "mlp", lr: float = 3e-3, kind: Any = SensRegClassifier, **kwargs: Any) -> Any:
        torch.manual_seed(0)
        model = build_model(
            name, digits.input_shape, 10, kwargs.pop("activation", "relu"), kwargs.pop("norm_layer", "none")
        )
        kwargs.setdefault("optimizer", torch.optim.Adam(model.parameters(), lr=lr))
        kwargs = {"clip_values": (0.0, 1.0), "device_type": "cpu", **kwargs}
        if issubclass(kind, SensRegClassifier):
            kwargs.setdefault("penalties", [])  # a missing list is warned of
        return kind(model, nn.CrossEntropyLoss(), digits.input_shape, 10, **kwargs)

    return make


def weights_of(classifier: Any) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in classifier.model.parameters()]


def same_weights(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
