"""What the aimed attacks refuse, and what they promise alike."""

import inspect

import numpy as np
import pytest
from torch import nn

from art_sensreg import SensRegClassifier
from art_sensreg import attacks as public
from art_sensreg.attacks import (
    FarStartsAttack,
    HiddenDistanceAttack,
    KitchenSinkAttack,
    ProjectedAscent,
    ScaledLogitsAttack,
    TargetedMarginAttack,
    TransferAttack,
)
from tests.attacks.trained import trained, wrap


@pytest.mark.parametrize(
    ("attack", "settings", "error", "message"),
    [
        (HiddenDistanceAttack, {"layers": "all"}, ValueError, "`layers` is 'all'"),
        (HiddenDistanceAttack, {"layers": ["nowhere"]}, ValueError, "`layers` asks for 'nowhere'"),
        (HiddenDistanceAttack, {"layers": 3}, TypeError, "`layers` is 3"),
        (HiddenDistanceAttack, {"direction": "up"}, ValueError, "`direction` is 'up'; expected one of away, towards"),
        (HiddenDistanceAttack, {"weight": -1.0}, ValueError, "`weight` is -1.0"),
        (HiddenDistanceAttack, {"guides": np.zeros((2, 1, 8, 8))}, TypeError, "`guides` is ndarray; expected a pair"),
        (HiddenDistanceAttack, {"guides": (np.zeros((2, 8, 8)), [0, 1])}, ValueError, "`guides` holds images of shape"),
        (HiddenDistanceAttack, {"guides": (np.zeros((2, 1, 8, 8)), [0])}, ValueError, "`guides` holds labels"),
        (HiddenDistanceAttack, {"guides": (np.zeros((0, 1, 8, 8)), [])}, ValueError, "with m at least 1"),
        (FarStartsAttack, {"nb_restarts": 0}, ValueError, "`nb_restarts` is 0"),
        (ScaledLogitsAttack, {"scales": 10}, TypeError, "`scales` is 10; expected a list"),
        (ScaledLogitsAttack, {"scales": (1.0, 0.0)}, ValueError, "`scales` is 0.0"),
        (ScaledLogitsAttack, {"double": 1}, TypeError, "`double` is 1"),
        (TargetedMarginAttack, {"nb_targets": 10}, ValueError, "`nb_targets` is 10; expected at most 9"),
        (TargetedMarginAttack, {"nb_targets": 0}, ValueError, "`nb_targets` is 0"),
        (TargetedMarginAttack, {"nb_targets": 1.5}, TypeError, "`nb_targets` is 1.5"),
        (TransferAttack, {"surrogates": []}, ValueError, "`surrogates` is empty"),
        (TransferAttack, {"surrogates": None}, TypeError, "`surrogates` is NoneType"),
        (TransferAttack, {"surrogates": [nn.Identity()]}, TypeError, r"`surrogates\[0\]`: .*Identity"),
        (TransferAttack, {"surrogates": "other shape"}, ValueError, r"`surrogates\[0\]` has `input_shape` \(64,\)"),
        (TransferAttack, {"surrogates": "other classes"}, ValueError, r"`surrogates\[0\]` has `nb_classes` 9"),
        (TransferAttack, {"surrogates": "other range"}, ValueError, r"`surrogates\[0\]` has `clip_values`"),
        (TransferAttack, {"surrogates": "same", "ensemble": None}, TypeError, "`ensemble` is None"),
        (KitchenSinkAttack, {"max_points": 0}, ValueError, "`max_points` is 0"),
        (KitchenSinkAttack, {"layers": []}, ValueError, "`layers` is empty"),
        (KitchenSinkAttack, {"epsilon": 0.1}, TypeError, "epsilon"),
    ],
)
def test_wrong_arguments_are_refused(attack, settings, error, message):
    classifier = wrap(trained())
    named = {
        "other shape": lambda: [
            SensRegClassifier(nn.Linear(64, 10), nn.CrossEntropyLoss(), (64,), 10, device_type="cpu")
        ],
        "other classes": lambda: [
            SensRegClassifier(nn.Linear(64, 9), nn.CrossEntropyLoss(), (1, 8, 8), 9, device_type="cpu")
        ],
        "other range": lambda: [wrap(trained(), clip_values=(0.0, 255.0))],
        "same": lambda: [classifier],
    }
    if isinstance(settings.get("surrogates"), str):
        settings = {**settings, "surrogates": named[settings["surrogates"]]()}
    with pytest.raises(error, match=message):
        attack(classifier, **settings)


def test_all_are_public_and_documented_alike():
    for name in public.__all__:
        documentation = inspect.getdoc(getattr(public, name))
        assert "Example:\n>>> " in documentation
        if name.endswith("Attack"):
            assert name == "OfficialAutoAttack" or issubclass(getattr(public, name), ProjectedAscent)
            assert "| Paper link: " in documentation


def test_parameters_can_be_changed_as_in_art():
    attack = TargetedMarginAttack(wrap(trained()))
    attack.set_params(nb_targets=2, eps=0.2)
    assert (attack.attempts, attack.eps) == (2, 0.2)
    with pytest.raises(ValueError, match="`nb_targets` is 20"):
        attack.set_params(nb_targets=20)
