"""Every setting of every public class, with everything that cannot be one: one clear error for each, none taken."""

import functools
import math

import numpy as np
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
from art_sensreg.adversaries import FGSMRS, NFGSM, PGD, TRADES
from art_sensreg.attacks import (
    BPDA,
    EOT,
    FarStartsAttack,
    HiddenDistanceAttack,
    KitchenSinkAttack,
    OfficialAutoAttack,
    ProjectedAscent,
    ScaledLogitsAttack,
    TargetedMarginAttack,
    TransferAttack,
)
from art_sensreg.datasets import load_dataset
from art_sensreg.models import build_model
from art_sensreg.randomization import BayesianKL
from art_sensreg.training import ValidationAttack
from tests.wrong_inputs.kinds import (
    ANYTHING,
    CALLBACKS,
    CHOICE,
    COUNT,
    FLAG,
    NO_NUMBER,
    NOT_NEGATIVE,
    NUMBER,
    POSITIVE,
    SEED,
    SHARE,
    none_taken,
    optional,
)

LAYERS = [None, 3, [], {}, "misspelt", [3], ["hidden", 3], object()]
BAD_SIGMAS = [np.zeros(3), np.array([0.1, -0.1]), torch.tensor([0.1, math.nan]), np.array(["a"]), np.array([1j])]
SIGMAS = [
    *POSITIVE[:-5],
    0,
    -1.0,
    *BAD_SIGMAS,
    (0.1,),
    (0.3, 0.1),
    (0.1, 0.2, 0.3),
    (0.0, 0.1),
    (0.1, math.nan),
    ("a", "b"),
]
ADVERSARY = {
    "eps": POSITIVE,
    "eps_step": optional(POSITIVE),
    "clean_fraction": [*NOT_NEGATIVE, 1.5],
    "pair": CHOICE,
}
ITERATIVE = {**ADVERSARY, "max_iter": COUNT, "norm": CHOICE}
NORM = [
    3,
    0,
    -1,
    "linff",
    "",
    None,
    math.nan,
    True,
    [2],
    {},
    object(),
    "3",
    "-inf",
    "-2",
    "--1",
    "inf2",
    10**400,
    *(value for value in NO_NUMBER if not isinstance(value, str)),
]
ATTACK = {
    "norm": NORM,
    "eps": [*NOT_NEGATIVE],
    "eps_step": optional(POSITIVE),
    "max_iter": COUNT,
    "nb_restarts": COUNT,
    "loss": CHOICE,
    "schedule": CHOICE,
    "batch_size": COUNT,
    "seed": [*SEED, None],
}
SETTINGS = {
    SensitivityPenalty: {
        "weight": NOT_NEGATIVE,
        "sigma": SIGMAS,
        "noise": CHOICE,
        "layers": LAYERS,
        "layer_weights": [3, "x", [], {}, [-1.0], [math.nan], ["a"], [math.inf], {1.0}, 2.0, object()],
        "distance": CHOICE,
        "scale": CHOICE,
        "probes": COUNT,
        "detach_clean": FLAG,
        "clip": FLAG,
    },
    JacobianPenalty: {
        "weight": NOT_NEGATIVE,
        "estimator": CHOICE,
        "probes": COUNT,
        "sigma": optional(SIGMAS),
        "squared": FLAG,
    },
    FisherRaoPenalty: {"weight": NOT_NEGATIVE, "eps": POSITIVE, "eps_step": POSITIVE, "max_iter": COUNT},
    GradientDiversityPenalty: {
        "weight": NOT_NEGATIVE,
        "kind": CHOICE,
        "samples": [*COUNT, 1],
        "delta": POSITIVE,
    },
    BayesianKL: {"weight": NOT_NEGATIVE},
    TrainingConfig: {
        "batch_size": COUNT,
        "nb_epochs": COUNT,
        "seed": [*SEED, 2**70],
        "drop_last": FLAG,
        "penalty_fraction": SHARE,
        "penalty_warmup": [*NOT_NEGATIVE, 1.5],
        "scheduler_interval": CHOICE,
        "max_grad_norm": optional(POSITIVE),
        "ema": [*optional(POSITIVE), 1.0, 1.5],
        "precision": CHOICE,
        "device": ["nowhere", 1.5, [], {}, "cpu:x", "meta", object(), True],
        "channels_last": FLAG,
        "compile": FLAG,
        "checkpoint_every": optional(COUNT),
        "keep": COUNT,
        "keep_freed_memory": FLAG,
        "on_nonfinite": CHOICE,
        "max_skipped": [*COUNT[:2], *COUNT[3:]],
        "validation_attack": [3, "pgd", {}, object(), ValidationAttack],
        "monitor": optional(CHOICE),
        "patience": optional(COUNT),
        "restore_best": FLAG,
        "scheduler_monitor": [value for value in optional(CHOICE) if not isinstance(value, str)],  # others: by `fit`
        "accumulate": COUNT,
        "clip_tolerance": NOT_NEGATIVE,
        "on_catastrophic_overfitting": CHOICE,
        "callbacks": CALLBACKS,
    },
    ValidationAttack: {"eps": POSITIVE, "norm": CHOICE, "eps_step": optional(POSITIVE), "max_iter": COUNT},
    FGSMRS: ADVERSARY,
    NFGSM: {**ADVERSARY, "noise": NOT_NEGATIVE},
    PGD: ITERATIVE,
    TRADES: {**ITERATIVE, "beta": NOT_NEGATIVE},
    ProjectedAscent: ATTACK,
    HiddenDistanceAttack: {
        "layers": LAYERS,
        "direction": CHOICE,
        "weight": NOT_NEGATIVE,
        "guides": [3, "x", (1,), (1, 2, 3), {}, object()],
        "nb_restarts": COUNT,
        "eps": NOT_NEGATIVE,
        "norm": NORM,
    },
    FarStartsAttack: {"nb_restarts": COUNT, "max_iter": COUNT, "seed": [*SEED, None], "norm": NORM},
    ScaledLogitsAttack: {
        "scales": [None, 3, "x", [0.0], [-1.0], [math.nan], ["a"], {}, object()],
        "double": FLAG,
        "seed": [*SEED, None],
        "eps": NOT_NEGATIVE,
    },
    TargetedMarginAttack: {"nb_targets": [*optional(COUNT), 10], "seed": [*SEED, None], "eps": NOT_NEGATIVE},
    TransferAttack: {
        "surrogates": [None, 3, [], "x", [3], [nn.Identity()], object()],
        "ensemble": FLAG,
        "seed": [*SEED, None],
    },
    KitchenSinkAttack: {
        "max_iter": COUNT,
        "nb_restarts": COUNT,
        "max_points": COUNT,
        "layers": LAYERS,
        "seed": [*SEED, None],
        "eps": NOT_NEGATIVE,
    },
    OfficialAutoAttack: {
        "norm": NORM,
        "eps": NOT_NEGATIVE,
        "version": CHOICE,
        "attacks": [3, "apgd-ce", [], ["misspelt"], {}, [3], object()],
        "seed": [*SEED, None],
        "batch_size": COUNT,
        "verbose": FLAG,
        "nb_iter": optional(COUNT),
        "nb_queries": optional(COUNT),
        "nb_restarts": optional(COUNT),
        "eot_iter": optional(COUNT),
    },
    BPDA: {
        "model": [None, 3, "x", np.sin, nn.Identity],
        "preprocessing": [None, 3, "x", np.zeros(3)],
        "surrogate": [3, "x", np.zeros(3)],
        "numpy": [3, "yes", [], object()],
    },
    EOT: {
        "model": [None, 3, "x", np.sin, nn.Identity],
        "samples": COUNT,
        "transform": [3, "x", np.zeros(3)],
        "average": CHOICE,
        "noise": CHOICE,
        "max_rows": optional(COUNT),
        "memory": COUNT,
    },
    SensRegTrainer: {
        "classifier": [None, 3, "x", nn.Linear(2, 2), {}],
        "penalties": [3, "x", {}, [3], [SensitivityPenalty], [None], SensitivityPenalty(), object()],
        "config": [3, "x", {}, [], 0, False, TrainingConfig, object()],
        "adversary": [3, "pgd", {}, [], PGD, 0, False, object()],
    },
    FIRETrainer: {
        "classifier": [None, 3],
        "penalty": [3, "imagenet", {}, [], 0, False, object()],
        "config": [3, {}, 0],
    },
    GradDivTrainer: {"classifier": [None, 3], "penalty": [3, "x", {}, [], 0, False, object()], "config": [3, {}, 0]},
    randomize: {"model": [None, 3, "x", nn.Linear], "kind": CHOICE, "first_std": NOT_NEGATIVE, "std": NOT_NEGATIVE},
    build_model: {"name": CHOICE, "activation": CHOICE, "norm_layer": CHOICE},
    load_dataset: {"name": ["misspelt", ""]},
    SensRegClassifier: {
        "model": [None, 3, "x", nn.Linear, {}],
        "loss": [3, "cross_entropy", {}, nn.CrossEntropyLoss],
        "input_shape": [None, 3, "x", (), (0, 2, 2), (-1, 2), (1.5, 2), ("a",), {}],
        "nb_classes": COUNT,
        "optimizer": [3, "adam", {}, torch.optim.Adam],
        "clip_values": [
            *(3, "x", (1,), (0, 1, 2), (1.0, 0.0), (0.0, 0.0), (math.nan, 1.0), (0.0, math.inf), ("a", "b"), {}),
            *((None, 1.0), (np.zeros(3), np.ones(3)), (np.ones((1, 2, 2)), np.zeros((1, 2, 2))), object()),
        ],
        "penalties": [3, "x", {}, [3], [SensitivityPenalty], [None], SensitivityPenalty()],
        "channels_first": FLAG,
        "device_type": [None, 3, "tpu", "CPU ", {}, True],
        "preprocessing": [3, "x", (1,), (0, 1, 2), (0.0, 0.0), (math.nan, 1.0), ("a", "b"), (0.0, math.inf)],
        "preprocessing_defences": [3, "x", [3], {}, object()],
        "postprocessing_defences": [3, "x", [3], {}, object()],
    },
    RandomizedClassifier: {
        "model": [None, 3, "x"],
        "samples": optional(COUNT),
        "average": optional(CHOICE),
        "nb_classes": COUNT,
    },
}
OWNERS = {owner.__name__: owner for owner in SETTINGS}
CASES = [(owner.__name__, name) for owner, table in SETTINGS.items() for name in table]


@functools.cache
def classifier():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 10))
    settings = {"clip_values": (0.0, 1.0), "device_type": "cpu"}
    return SensRegClassifier(model, nn.CrossEntropyLoss(), (1, 2, 2), 10, **settings)


def needed(owner):
    """What the call needs besides the argument in question."""
    if issubclass(type(owner), type) and issubclass(owner, (FGSMRS, NFGSM, PGD, TRADES, ValidationAttack)):
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
    assert ANYTHING
    assert NUMBER


@pytest.mark.parametrize("owner", OWNERS)
def test_an_unknown_setting_is_refused(owner):
    call = OWNERS[owner]
    if call is load_dataset:
        return
    with pytest.raises(TypeError, match="wieght"):
        call(**{**needed(call), "wieght": 1.0})
