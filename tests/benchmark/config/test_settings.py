"""The settings of a run, and the recipes of the data sets."""

import json
from dataclasses import replace

import pytest

from art_sensreg.benchmark.config.optimization import OptimizationSettings
from art_sensreg.benchmark.config.settings import BUDGETS, FILE_RECIPE, RECIPES
from art_sensreg.benchmark.config.threat_models import NORMS
from art_sensreg.benchmark.defences.registry import general_options
from tests.support.results import settings


@pytest.mark.parametrize("recipe", [*RECIPES.values(), FILE_RECIPE])
def test_every_recipe_has_sizes_of_each_norm_and_images_of_each_budget(recipe):
    assert set(recipe.eps) == set(NORMS)
    assert all(list(sizes) == sorted(sizes) for sizes in recipe.eps.values())
    assert set(recipe.test_size) == set(BUDGETS)


@pytest.mark.parametrize(("recipe", "name"), [(one, name) for one in RECIPES.values() for name in one.optimization])
def test_recipes_optimise_defences_that_there_are_by_what_optimizers_take(recipe, name):
    own = recipe.options(name, {}, OptimizationSettings(), None)
    assert own == recipe.optimization[name] == general_options(name, own)
    assert OptimizationSettings().updated(own).optimizer == own["optimizer"]


def test_a_resumed_run_may_add_defences_attacks_and_seeds_alone():
    stored = settings()
    assert settings(defences=("none",), attacks=("square",), seeds=3).first_difference(stored) is None
    assert settings(epochs=3).first_difference(stored) == "`epochs` was 2 and is now 3"
    # Options come with their defences; those of the stored ones stay as they were, also if they are not asked for anew.
    more = settings(defences=("sr",), options={"sr": {"sigma": 0.2}})
    assert more.first_difference(settings(defences=("none",))) is None
    kept = settings(defences=("none",)).beside(more)
    assert (kept.defences, kept.options) == (("sr", "none"), {"sr": {"sigma": 0.2}})
    assert more.first_difference(kept) is None
    assert "`options` was {'sr': {'sigma': 0.2}}" in settings(defences=("sr",)).first_difference(kept)
    listed = settings(options={"sr": {"sigma": [0.1, 0.3]}})
    assert settings(options={"sr": {"sigma": (0.1, 0.3)}}).first_difference(listed) is None


def test_a_resumed_run_has_the_penalties_that_it_had():
    former = settings(defences=("sr", "jr"), penalties={"sr": {"sr_weight": 0.3}, "jr": {"jr_weight": 0.1}})
    now = settings(defences=("sr",), penalties={"sr": {"sr_weight": 1.0}})
    assert (
        now.first_difference(former)
        == "`penalties` was {'sr': {'sr_weight': 0.3}} and is now {'sr': {'sr_weight': 1.0}}"
    )
    assert replace(now, defences=("jr",), penalties={"jr": {"jr_weight": 0.1}}).first_difference(former) is None
    assert now.beside(former).penalties == {"sr": {"sr_weight": 1.0}, "jr": {"jr_weight": 0.1}}
    # What a run was trained with that does not say so stays unknown.
    older = settings(defences=("sr",))
    assert now.first_difference(older) is None
    assert now.beside(older).penalties is None
    assert "penalties" not in older.to_dict()


def test_options_replace_what_a_recipe_has_of_penalties():
    recipe = RECIPES["mnist"]
    left = {name: value for name, value in recipe.penalties["sr"].items() if name != "sigma"}
    assert recipe.left_alone("sr", {"sigma": 0.2, "epochs": 3}) == left
    assert recipe.left_alone("none", {}) == {}


def test_a_resumed_run_is_optimised_as_before():
    averaged = settings(optimization=OptimizationSettings(weight_average=0.9))
    assert averaged.first_difference(settings()) == "`weight_average` was None and is now 0.9"
    assert settings().first_difference(averaged) == "`weight_average` was 0.9 and is now None"


def test_settings_are_json():
    stored = json.loads(json.dumps(settings(optimization=OptimizationSettings(schedule="constant")).to_dict()))
    assert stored["eps"] == [0.1, 0.2]
    assert stored["schedule"] == "constant"
    assert "weight_decay" not in stored
