"""Where settings are searched: declared for options that there are, around defaults that can be multiplied."""

import math

import numpy as np
import pytest

from art_sensreg.benchmark.config.optimization import OptimizationSettings
from art_sensreg.benchmark.defences.registry import DEFENCES, general_options
from art_sensreg.benchmark.defences.search_spaces import SPACES, Among, Around, Times, Together, draw_options


@pytest.mark.parametrize("name", [name for name in SPACES if name in DEFENCES])
def test_spaces_name_options_that_their_defences_have(name):
    assert set(SPACES[name]) <= set(DEFENCES[name].options) | {"optimizer"}


@pytest.mark.parametrize("name", [name for name in SPACES if name in DEFENCES and name != "art-fbf-fixed"])
def test_every_defence_is_searched_with_adam_and_with_sgd(name):
    sets = SPACES[name]["optimizer"].sets
    assert [OptimizationSettings().updated(chosen).optimizer for chosen in sets] == ["adam", "sgd", "sgd", "sgd"]
    assert all(general_options(name, chosen) == chosen for chosen in sets)


def test_sets_are_drawn_as_a_whole():
    rng = np.random.default_rng(0)
    space = {"weight": Around(2.0), "optimizer": Together(({}, {"optimizer": "sgd", "learning_rate": 0.2}))}
    drawn = [draw_options(space, {"weight": 1.0}, rng) for _ in range(40)]
    kinds = [{name: value for name, value in options.items() if name != "weight"} for options in drawn]
    assert all(kind in ({}, {"optimizer": "sgd", "learning_rate": 0.2}) for kind in kinds)
    assert 10 < kinds.count({}) < 30


def test_draws_stay_within_their_space():
    rng = np.random.default_rng(0)
    space = {"weight": Around(10.0), "eps": Times(0.9, 1.2), "fraction": Among((0.0, 0.5))}
    drawn = [draw_options(space, {"weight": 0.1, "eps": 0.3, "fraction": 0.25}, rng) for _ in range(400)]
    logs = [math.log10(options["weight"]) for options in drawn]
    assert -2.01 < min(logs) < -1.9
    assert -0.1 < max(logs) < 0.01
    assert np.median(logs) == pytest.approx(-1, abs=0.2)  # log-uniform around the default
    sizes = [options["eps"] for options in drawn]
    assert 0.27 <= min(sizes) < 0.275
    assert 0.355 < max(sizes) <= 0.36
    assert {options["fraction"] for options in drawn} == {0.0, 0.5}


def test_what_cannot_be_multiplied_is_refused():
    with pytest.raises(ValueError, match=r"`weight` has the default 0\.0; expected a number above 0"):
        draw_options({"weight": Around(2.0)}, {"weight": 0.0}, np.random.default_rng(0))
