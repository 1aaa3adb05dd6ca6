"""Arguments of the functions beside training and attacks: one clear error for each that cannot be one, none taken."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg import audit, describe
from art_sensreg.interpret import (
    ExplanationConfig,
    alignment,
    blurred,
    deletion_area,
    explain,
    gini_sparsity,
    infidelity,
    insertion_area,
    integrated_gradients,
    max_sensitivity,
    saliency_picture,
)
from tests.wrong_inputs.kinds import CHOICE, COUNT, FLAG, POSITIVE, SEED, none_taken
from tests.wrong_inputs.test_data import NO_ARRAY, WRONG_TYPE, C, X, Y, classifier, random_classifier

MAPS = [*NO_ARRAY.values(), *WRONG_TYPE.values(), X[:3]]
CLASSIFIERS = [None, 3, "x", nn.Linear(2, 2)]
BASELINES = ["0.3", "x", b"x", math.nan, math.inf, 1j, X[:3], [1.0, 2.0], {}, object(), np.array("2", dtype=object)]
POINTS = {"x": X, "y": Y}
GIVEN = {
    "infidelity": (infidelity, {**POINTS, "saliency": X}),
    "insertion": (insertion_area, {**POINTS, "saliency": X}),
    "deletion": (deletion_area, {**POINTS, "saliency": X}),
    "integrated": (integrated_gradients, POINTS),
    "max_sensitivity": (max_sensitivity, POINTS),
    "explain": (explain, POINTS),
    "picture": (saliency_picture, {**POINTS, "path": "unwritten.png"}),
    "alignment": (alignment, {"x": X, "gradient": X}),
    "gini": (gini_sparsity, {"saliency": X}),
    "blurred": (blurred, {"x": X, "width": 1.0}),
    "audit": (audit, {**POINTS, "eps": 0.1, "checks": ["eval_mode"]}),
    "describe": (describe, POINTS),
}
SIZES = [
    *(value for value in POSITIVE if not isinstance(value, str)),
    8,
    1e308,
    "1/0",
    "8/",
    "a/b",
    "-1/2",
    "nan",
    "inf",
    "1e400",
    "1e-400",
]
ARGUMENTS = {
    "infidelity": {
        **{"saliency": MAPS, "sigma": POSITIVE, "samples": COUNT, "relative": FLAG, "batch_size": COUNT, "seed": SEED},
        "classifier": CLASSIFIERS,
    },
    "insertion": {"saliency": MAPS, "steps": COUNT, "batch_size": COUNT, "seed": SEED, "classifier": CLASSIFIERS},
    "deletion": {"saliency": MAPS, "steps": COUNT, "batch_size": COUNT, "seed": SEED},
    "integrated": {"steps": COUNT, "batch_size": COUNT, "multiply_by_inputs": FLAG, "seed": SEED},
    "max_sensitivity": {"radius": POSITIVE, "samples": COUNT, "batch_size": COUNT, "seed": SEED},
    "explain": {"steps": COUNT, "sigma": POSITIVE, "radius": POSITIVE, "samples": COUNT, "seed": SEED},
    "picture": {
        "classifiers": [None, 3, {}, [classifier()], {"a": 3}, {3: classifier()}],
        "saliencies": [None, 3, "gradient", [], [3], ["misspelt"]],
        "path": [None, 3, [], {}],
    },
    "alignment": {"x": MAPS, "gradient": MAPS, "normalise": FLAG},
    "gini": {"saliency": MAPS[:-1]},
    "blurred": {"x": MAPS[:-1], "width": POSITIVE},
    "audit": {
        "eps": SIZES,
        "norm": CHOICE,
        "seed": [*SEED, None],
        "quick": FLAG,
        "verbose": FLAG,
        "checks": [3, [], {}, object(), "misspelt", [3]],
        "twin": [3, "x", nn.Linear(2, 2)],
        "surrogates": [3, "x", [3]],
        "penalties": [3, "x", [3]],
        "train_data": [3, "x", (X,), (X, Y, Y), (X, Y[:3]), (X[:3], Y)],
    },
    "describe": {"model": [None, 3, "x", nn.Linear], "rows": COUNT, "penalties": [3, "x", [3], {}]},
}
EXPLANATIONS = ("infidelity", "insertion", "deletion", "integrated", "max_sensitivity", "explain")
SETTINGS = {field.name for field in dataclasses.fields(ExplanationConfig)}
CASES = [(call, name) for call, arguments in ARGUMENTS.items() for name in arguments]


@pytest.mark.parametrize(("call", "name"), CASES)
def test_a_wrong_argument_is_one_clear_error(call, name):
    function, given = GIVEN[call]
    owner = {"alignment": {}, "gini": {}, "blurred": {}, "describe": {"model": classifier()}}.get(call)
    owner = owner if owner is not None else {"classifier": classifier()}
    owner = {"classifiers": {"a": classifier()}} if call == "picture" else owner

    def giving(value):
        # Settings of explanations are one value; all of them go through the same calls.
        if call in EXPLANATIONS and name in SETTINGS:
            return lambda: function(**{**owner, **given, "config": ExplanationConfig(**{name: value})})
        return lambda: function(**{**owner, **given, name: value})

    none_taken(name, [(value, giving(value)) for value in ARGUMENTS[call][name]])


@pytest.mark.parametrize("name", ["repeats", "batch_size", "seed"])
def test_a_wrong_argument_of_a_random_classifiers_score(name):
    def giving(value):
        return lambda: random_classifier().score(X, Y, **{name: value})

    none_taken(name, [(value, giving(value)) for value in {"seed": SEED}.get(name, COUNT)])


def test_a_wrong_batch_size_of_a_prediction():
    values = [None, True, 2**63, 10**400]  # what else is none ART refuses itself
    none_taken(
        "batch_size", [(value, lambda value=value: classifier().predict(X, batch_size=value)) for value in values]
    )
    assert classifier().predict(X, batch_size=np.int64(5)).shape == (len(X), C)


@pytest.mark.parametrize("how", ["save", "load_weights"])
def test_a_wrong_name_of_weights(how, tmp_path):
    names = [None, 3, True, b"x", [], "", ".", "..", "../x", "a\0b", "/etc/x"]
    none_taken(
        "filename", [(name, lambda name=name: getattr(classifier(), how)(name, path=tmp_path)) for name in names]
    )
    folders = [3, b"x", [], "a\0b"]
    none_taken("path", [(path, lambda path=path: getattr(classifier(), how)("net", path=path)) for path in folders])
    assert not list(tmp_path.iterdir())


def test_where_a_baseline_is_none():
    def giving(value):
        return lambda: integrated_gradients(classifier(), X, Y, ExplanationConfig(baseline=value))

    none_taken("baseline", [(value, giving(value)) for value in BASELINES])


@pytest.mark.parametrize("name", ["verbose", "training_mode"])
def test_a_wrong_switch_of_fit(name):
    def giving(value):
        return lambda: classifier().fit(X, Y, nb_epochs=1, **{name: value})

    none_taken(name, [(value, giving(value)) for value in FLAG if not isinstance(value, int)])


def test_a_wrong_class_of_a_class_gradient():
    """ART takes a negative class for one from the end."""
    wrong = ["x", 99, -1, 1.5, [0, 1], Y[:3], Y - 1, Y + 1, Y * 0.5, Y * np.nan, {}, object(), True, np.eye(C), 10**400]
    none_taken("label", [(value, lambda value=value: classifier().class_gradient(X, value)) for value in wrong])
    usual = classifier().class_gradient(X, Y)
    assert usual.shape == (len(X), 1, *X.shape[1:])
    for labels in (Y.tolist(), torch.from_numpy(Y), Y.astype(">i2")):
        assert np.array_equal(classifier().class_gradient(X, labels), usual)
    assert np.array_equal(classifier().class_gradient(X, torch.tensor(2)), classifier().class_gradient(X, 2))
