"""The README's figures are those of docs/results/, and the settings are the chosen ones."""

import re
import runpy

import pytest

from art_sensreg.benchmark.config.settings import RECIPES
from tests.paths import ROOT
from tests.support.programs import exit_code


def test_the_readme_shows_the_stored_figures(monkeypatch):
    assert exit_code(monkeypatch, ROOT / "benchmarks" / "update_readme.py", "--check") == 0


def test_a_block_shows_the_table_under_its_heading_and_no_other():
    first_table = runpy.run_path(str(ROOT / "benchmarks" / "update_readme.py"))["first_table"]
    text = "# Page\n\n| a |\n\n## One: shares\n\n| b |\n| c |\n\n## Two\n\nNothing.\n\n## Three\n\n| d |\n"
    assert first_table(text) == "| a |\n"
    assert first_table(text, "One:") == "| b |\n| c |\n"
    for missing in ("Two", "Four"):
        with pytest.raises(ValueError, match=f"no table under '{missing}'"):
            first_table(text, missing)


@pytest.mark.parametrize("dataset", ["mnist", "digits"])
def test_the_recipes_are_the_settings_chosen_on_held_out_images(dataset):
    text = (ROOT / "docs" / "results" / f"{dataset}-validation.md").read_text()
    found = {}
    for section in text.split("\n## ")[1:]:
        line = next(line for line in section.splitlines() if line.startswith("Chosen: "))
        found[section.splitlines()[0]] = {
            name: float(value) for name, value in re.findall(r"`(\w+)` ([\d.]+?)[,.]?(?=$| |,)", line)
        }
    recipe = RECIPES[dataset].penalties["sr+jr"]
    assert found["sr+jr"] == {name: recipe[name] for name in found["sr+jr"]}
    assert set(recipe) - set(found["sr+jr"]) == {"noise", "penalty_fraction"}  # which the search did not vary
    assert found["jr"] == RECIPES[dataset].penalties["jr"]


def test_the_related_recipes_are_those_chosen_on_held_out_images():
    text = (ROOT / "docs" / "results" / "digits-related-validation.md").read_text()
    sections = {section.splitlines()[0]: section for section in text.split("\n## ")[1:]}
    for name, recipe in RECIPES["digits"].penalties.items():
        if name in sections:
            (line,) = (line for line in sections[name].splitlines() if line.startswith("Chosen: "))
            chosen = {key: float(value) for key, value in re.findall(r"`(\w+)` ([\d.]+?)[,.]?(?=$| |,)", line)}
            assert {key: chosen[key] for key in recipe} == recipe
    assert {"fire", "at+sr+jr", "n-fgsm+sr+jr"} <= set(sections)


def test_the_weight_of_graddiv_is_the_one_chosen_on_held_out_images():
    text = (ROOT / "docs" / "results" / "digits-graddiv.md").read_text()
    assert (
        float(re.search(r"Chosen: ([\d.]+)\.$", text, re.MULTILINE).group(1))
        == RECIPES["digits"].penalties["graddiv"]["weight"]
    )
