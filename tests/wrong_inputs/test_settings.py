"""Every setting of every public class, with everything that cannot be one: one clear error for each, none taken."""

import functools

import pytest
import torch
from torch import nn

from art_sensreg import (
    FIRETrainer,
    FisherRaoPenalty,
    GradDivTrainer,
    GradientDiversityPenalty,
    JacobianPenalty,
    RandomizedClassifier,
    SensitivityPenalty,
    SensRegClassifier,
    SensRegTrainer,
    TrainingConfig,
    randomize,
)
from art_sensreg.adversaries import Adversary
from art_sensreg.attacks import (
    BPDA,
    EOT,
    OfficialAutoAttack,
    ProjectedAscent,
    TransferAttack,
)
from art_sensreg.datasets import load_dataset
from art_sensreg.models import build_model
from art_sensreg.penalties import GradientAlignmentPenalty
from art_sensreg.training import ValidationAttack
from tests.wrong_inputs.kinds import (
    none_taken,
)
from tests.wrong_inputs.settings import SETTINGS

OWNERS = {owner.__name__: owner for owner in SETTINGS}
CASES = [(owner.__name__, name) for owner, table in SETTINGS.items() for name in table]


@functools.cache
def classifier():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 10))
    settings = {"clip_values": (0.0, 1.0), "device_type": "cpu"}
    return SensRegClassifier(model, nn.CrossEntropyLoss(), (1, 2, 2), 10, **settings)


def needed(owner):
    """What the call needs besides the argument in question."""
    if issubclass(type(owner), type) and issubclass(owner, (Adversary, ValidationAttack, GradientAlignmentPenalty)):
        return {"eps": 0.1}
    if issubclass(type(owner), type) and issubclass(owner, (ProjectedAscent, OfficialAutoAttack)):
        surrogates = {"surrogates": [classifier()]} if owner is TransferAttack else {}
        return {"estimator": classifier(), **surrogates}
    if owner in (BPDA, EOT):
        return {"model": nn.Identity(), **({"preprocessing": torch.round} if owner is BPDA else {})}
    if owner in (SensRegTrainer, FIRETrainer, GradDivTrainer):
        return {"classifier": classifier(), **({} if owner is SensRegTrainer else {"penalty": None})}
    if owner in (SensRegClassifier, RandomizedClassifier):
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 10), nn.Dropout())
        return {"model": model, "loss": nn.CrossEntropyLoss(), "input_shape": (1, 2, 2), "nb_classes": 10}
    return {
        randomize: {"model": nn.Linear(4, 2)},
        build_model: {"name": "mlp", "input_shape": (1, 8, 8), "nb_classes": 10},
        load_dataset: {},
    }.get(owner, {})


@pytest.mark.parametrize(("owner", "name"), CASES)
def test_a_wrong_setting_is_one_clear_error(owner, name):
    call = OWNERS[owner]
    # Where the name of a data set or a model is asked for, the error names the command's option.
    shown = {load_dataset: "dataset", build_model: "model" if name == "name" else name}.get(call, name)

    def giving(value):
        return lambda: call(**{**needed(call), name: value})

    none_taken(shown, [(value, giving(value)) for value in SETTINGS[call][name]])


def test_the_table_is_large_and_covers_every_setting():
    """A setting that is added to a class must be added here."""
    import inspect

    assert sum(len(values) for table in SETTINGS.values() for values in table.values()) >= 400
    free = {"eps", "eps_step", "estimator", "args", "kwargs", "settings", "options"}
    for owner in (SensitivityPenalty, JacobianPenalty, FisherRaoPenalty, GradientDiversityPenalty, TrainingConfig):
        assert set(inspect.signature(owner).parameters) - free <= set(SETTINGS[owner]), owner


@pytest.mark.parametrize("owner", OWNERS)
def test_an_unknown_setting_is_refused(owner):
    call = OWNERS[owner]
    if call is load_dataset:
        return
    with pytest.raises(TypeError, match="wieght"):
        call(**{**needed(call), "wieght": 1.0})
