"""The registry of defences: names, plugins that do not work, options."""

import pytest

from art_sensreg.benchmark.config.settings import RECIPES
from art_sensreg.benchmark.defences import DEFENCES, Defence, register
from art_sensreg.benchmark.defences.registry import SMOKE_DEFENCES, resolve_options


@pytest.mark.parametrize("name", ["", "a,b", "a b", "all", "trainers", "a/b", "a.b", "a=b", "x" * 65, 3])
def test_names_that_cannot_stand_on_a_command_line(name):
    with pytest.raises(ValueError, match="expected a word"):
        register(Defence(name, "", ""))
    assert name not in DEFENCES


def test_what_runs_by_default_is_there_in_the_order_of_the_registry():
    assert "none" in SMOKE_DEFENCES
    assert list(SMOKE_DEFENCES) == [name for name in DEFENCES if name in SMOKE_DEFENCES]


def test_an_option_is_what_was_given_else_its_default_else_the_recipes():
    found = resolve_options("at+sr+jr", {"max_iter": 3}, {"eps": 0.1, "norm": "l2", "sr_weight": 0.1, "jr_weight": 0.2})
    assert (found["max_iter"], found["clean_fraction"], found["eps"], found["norm"]) == (3, 0.5, 0.1, "l2")
    # None leaves it to the data set.
    assert resolve_options("carried", {"eps": None, "eps_step": None}, {"eps": 0.1, "norm": "linf"})["eps"] == 0.1
    with pytest.raises(ValueError, match=r"`--set` names the option 'max_itr' of art-madry.* Did you mean 'max_iter'"):
        resolve_options("art-madry", {"max_itr": 3}, {})


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_options_are_known_in_every_norm_and_training_says_which_it_lacks(norm):
    for name in DEFENCES:
        recipe = {"eps": 0.1, "norm": norm, **RECIPES["mnist"].penalties.get(name, {})}
        assert resolve_options(name, {}, recipe) is not None
    with pytest.raises(ValueError, match="`norm` is 'l1'; expected"):
        resolve_options("gradnorm", {"norm": "l1"}, {"eps": 0.1, "norm": norm})
