from __future__ import annotations

from typing import Any

import pytest
import torch
from art.defences.trainer import AdversarialTrainerOAATPyTorch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.benchmark.defences import NotApplicable
from art_sensreg.benchmark.defences.from_art import oaat as art_oaat
from art_sensreg.benchmark.defences.from_art.oaat import (
    OAAT,
    OAAT_OPTIONS,
    RepairedOAAT,
    WatchedOAAT,
    train_oaat,
    train_oaat_fixed,
)
from art_sensreg.datasets import Dataset
from tests.benchmark.defences.from_art.training import accuracy, small_spec, trained
from tests.conftest import same_weights, weights_of

OPTIONS = {**OAAT_OPTIONS, "max_iter": 3}
KINDS = {train_oaat: WatchedOAAT, train_oaat_fixed: RepairedOAAT}


@pytest.fixture
def averages(monkeypatch: pytest.MonkeyPatch) -> list[PyTorchClassifier]:
    """The weight averages of the trainers that are made from now on."""
    seen: list[PyTorchClassifier] = []

    def spied(kind: Any) -> Any:
        def fit(self: Any, *args: Any, **kwargs: Any) -> None:
            seen.extend(self._list_avg_models)
            AdversarialTrainerOAATPyTorch.fit(self, *args, **kwargs)

        return type(kind.__name__, (kind,), {"fit": fit})

    monkeypatch.setattr(art_oaat, "WatchedOAAT", spied(WatchedOAAT))
    monkeypatch.setattr(art_oaat, "RepairedOAAT", spied(RepairedOAAT))
    return seen


@pytest.mark.parametrize("train", KINDS)
def test_learns_in_every_phase(digits: Dataset, train: Any, capsys: Any) -> None:
    # Five epochs: the last one has the mixed batches and the perceptual attack.
    spec = small_spec(digits, model="cnn-small", epochs=5, batch_size=8, eps=0.03)
    classifier = trained(train, spec, {**OPTIONS, "max_iter": 2, "learning_rate": 0.05})
    assert accuracy(spec, classifier.model) > 0.5
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("train", "moves"), [(train_oaat, False), (train_oaat_fixed, True)])
def test_the_weight_average_moves_only_if_repaired(
    digits: Dataset, train: Any, moves: bool, averages: list[PyTorchClassifier]
) -> None:
    spec = small_spec(digits, n=100, model="cnn-small", epochs=2)
    classifier = trained(train, spec, OPTIONS)
    average = weights_of(averages[0])
    start = list(spec.new_model().parameters())
    assert same_weights(average, start) != moves
    assert same_weights(average, weights_of(classifier)) == moves


@pytest.mark.parametrize(("kind", "sees"), [(AdversarialTrainerOAATPyTorch, False), (RepairedOAAT, True)])
def test_the_perceptual_distance_is_zero_as_shipped(kind: Any, sees: bool) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    classifier = PyTorchClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 2, device_type="cpu")
    first, second = torch.rand(3, 1, 8, 8), torch.rand(3, 1, 8, 8)
    distances = kind.calculate_lpips_distance(classifier, first, second, ["1"])
    assert bool((distances > 0.01).all()) == sees
    assert kind.calculate_lpips_distance(classifier, first, first, ["1"]).max() == 0


def test_same_seed_same_weights(digits: Dataset) -> None:
    spec = small_spec(digits, n=64, model="cnn-small", epochs=5)
    first, second = (trained(train_oaat_fixed, spec, OPTIONS) for _ in range(2))
    assert same_weights(weights_of(first), weights_of(second))


def test_reasons(digits: Dataset) -> None:
    with pytest.raises(NotApplicable, match="convolutional layers"):
        train_oaat(small_spec(digits), OPTIONS)
    with pytest.raises(NotApplicable, match=r"clips each pixel to eps.*; this run is in l2"):
        OAAT[0].train(small_spec(digits, model="cnn-small", norm="l2"), OPTIONS)
