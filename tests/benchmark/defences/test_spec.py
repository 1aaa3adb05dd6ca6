"""What the suite knows of a defence: what it trains, in which norms, and how its options are checked."""

import pytest
import torch

from art_sensreg import JacobianPenalty
from art_sensreg.benchmark.defences import DEFENCES, Defence, NotApplicable, from_penalties
from art_sensreg.benchmark.defences.spec import within
from tests.benchmark.defences.from_art.training import small_spec, trained


def test_a_defence_without_training_has_the_model_of_none(digits):
    spec = small_spec(digits, epochs=1)
    defence = Defence("around", "", "")
    assert not defence.trained
    assert DEFENCES["none"].trained
    models = [trained(one.train, spec, {}).model.state_dict() for one in (defence, DEFENCES["none"])]
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())


def test_what_stands_around_a_model_trains_none():
    for name, defence in DEFENCES.items():
        assert defence.trained == (defence.preprocessing is defence.postprocessing is None), name


def test_a_norm_in_which_it_cannot_train_is_not_applicable(digits):
    spec = small_spec(digits, norm="l1")
    with pytest.raises(NotApplicable, match=r"^mine trains on perturbations in linf or l2 only; this run is in l1$"):
        Defence("mine", "", "", norms=("linf", "l2")).train(spec, {})
    with pytest.raises(NotApplicable, match=r"^because; this run is in l1$"):
        Defence("mine", "", "", norms=("linf",), norms_reason="because").train(spec, {})


@pytest.mark.parametrize(
    ("given", "message"),
    [({"n": 0}, "whole number of at least 1"), ({"x": -1.0}, "at least 0"), ({"x": "a"}, "expected a number")],
)
def test_options_are_checked_by_the_type_of_their_defaults(given, message):
    defence = Defence("mine", "", "", {"n": 1, "x": 0.5})
    defence.check_options({"n": 3, "x": 0.0}, {"n": 3, "x": 0.0})
    with pytest.raises((TypeError, ValueError), match=message):
        defence.check_options({**defence.options, **given}, given)


def test_penalties_check_their_own_options():
    defence = from_penalties("mine", "", "", lambda options: [JacobianPenalty(**options)], {"weight": 1.0})
    with pytest.raises(ValueError, match="`weight` is -1"):
        defence.check_options({"weight": -1.0}, {"weight": -1.0})


def test_ranges_of_options():
    check = within(above_zero=("a", "b"), at_most_one=("b",))
    check({"a": 7.0, "b": 1.0})
    for options, message in (({"a": 0.0, "b": 1.0}, "`a` is 0.0"), ({"a": 1.0, "b": 1.5}, "at most 1")):
        with pytest.raises(ValueError, match=message):
            check(options)
