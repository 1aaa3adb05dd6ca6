"""Rows with their settings: variants of a defence, and what cannot be made."""

from dataclasses import replace

import pytest

from art_sensreg.benchmark.config.settings import RECIPES
from art_sensreg.benchmark.studies.experiments import Row
from art_sensreg.benchmark.studies.experiments.cell import is_random
from tests.benchmark.studies.small_experiment import SMALL, laboratory, run


def test_a_variant_has_the_recipe_of_its_defence_and_its_own_options(tmp_path):
    lab = laboratory(tmp_path)
    _, default, light = lab.rows
    recipe = RECIPES["digits"].penalties["sr+jr"]
    assert {name: lab.options(default)[name] for name in recipe} == recipe
    assert lab.options(light) == {**lab.options(default), "sigma": 0.1}
    assert (lab.settings(default).epochs, lab.settings(light).epochs) == (4, 2)


def test_a_variant_of_one_name_has_the_recipe_of_each_experiment(tmp_path, monkeypatch):
    light = SMALL.rows[2]
    weight = laboratory(tmp_path / "first").options(light)["sr_weight"]
    penalties = {"sr+jr": {**RECIPES["digits"].penalties["sr+jr"], "sr_weight": 2 * weight}}
    monkeypatch.setitem(RECIPES, "digits", replace(RECIPES["digits"], penalties=penalties))
    assert laboratory(tmp_path / "second").options(light)["sr_weight"] == 2 * weight


def test_a_variant_is_optimised_as_the_recipe_has_it_for_its_defence(tmp_path, monkeypatch):
    own = {"optimizer": "sgd", "learning_rate": 0.2}
    monkeypatch.setitem(RECIPES, "digits", replace(RECIPES["digits"], optimization={"sr+jr": own}))
    adam = Row(name="sr+jr_adam", defence="sr+jr", options={"optimizer": "adam"})
    lab = laboratory(tmp_path, replace(SMALL, rows=(*SMALL.rows, adam)))
    assert [lab.settings(row).options for row in lab.rows] == [
        {}, {"sr+jr": own}, {"sr+jr_light": {**own, "sigma": 0.1}}, {"sr+jr_adam": {"optimizer": "adam"}},
    ]  # fmt: skip


def test_what_cannot_be_made_is_said(tmp_path):
    rows = (
        *SMALL.rows[:1],
        Row(name="a", defence="sr+jr", options={"sgima": 1}),
        Row(name="b", defence="sr+jr", options={"sigma": -1.0}),
        Row(name="c", defence="sr+jr", settings={"colour": 1}),
        Row(name="d", defence="sr-jr"),
    )
    lab = laboratory(tmp_path, replace(SMALL, rows=rows))
    assert [row.name for row in lab.rows] == ["none"]
    a, b, c, d = lab.left_out
    assert "names the option 'sgima'" in a
    assert "`sigma` is -1.0" in b
    assert "no setting `colour`" in c
    assert d.startswith("d: there is no defence 'sr-jr' in this version. Did you mean 'sr+jr'")
    with pytest.raises(ValueError, match="no row of small can be made: magic: "):
        laboratory(tmp_path, replace(SMALL, rows=SMALL.rows[-1:]))


def test_the_others_of_a_seed_are_known_by_the_names_of_their_defences(tmp_path):
    run(tmp_path, rows=("sr+jr", "none", "sr+jr_light"), kinds=("train",))
    lab = laboratory(tmp_path)
    assert set(lab.others(lab.cell(lab.rows[1], 1))) == {"sr+jr", "none"}
    first, light = (lab.cell(row, 0) for row in lab.rows[1:])
    assert lab.others(first)["sr+jr"] is first.target  # and not that of the variant, which comes later
    assert lab.others(light)["sr+jr_light"] is light.target
    assert is_random("rse")
    assert not is_random("sr")
