"""One attack as a pure function: its outcome, its plan, and parts that add up."""

from dataclasses import replace

import numpy as np
import pytest

from art_sensreg.benchmark.attacks import ATTACKS
from art_sensreg.benchmark.config.threat_models import Threat
from art_sensreg.benchmark.engine.attack import AttackStep, Resources, attack, joined, noise_accuracy, plan_attacks
from tests.benchmark.engine.models import images, small_target
from tests.support.results import settings


@pytest.fixture(scope="module")
def target(digits):
    return small_target(digits)


@pytest.fixture
def resources(digits):
    return Resources(budget="smoke", dataset=digits, surrogates={})


def step(name, *sizes, spec=None):
    return AttackStep(spec=spec or ATTACKS[name], view="default", norm="linf", sizes=sizes)


def test_the_outcome_follows_from_what_is_given_alone(target, resources, digits):
    x, y = images(digits)
    first, *others = (attack(target, x, y, step("pgd", 0.1), resources, draw) for draw in (("a",), ("a",), ("b",)))
    assert np.array_equal(first.robust(0), others[0].robust(0))
    assert first.within.shape == (1, 20)
    assert first.within.all()
    assert first.robust(0).sum() < (target.score(x, y, seed=0).correct).sum()


def test_a_minimal_norm_attack_answers_all_sizes_at_once(target, resources, digits):
    x, y = images(digits)
    outcome = attack(target, x, y, step("deepfool", 0.05, 0.5), resources, ("a",))
    robust = [outcome.robust(number) for number in range(2)]
    assert not (robust[1] & ~robust[0]).any()  # a larger size breaks no less
    assert robust[0].sum() > robust[1].sum()


class Cheat:
    """Moves images further than it may."""

    def __init__(self, *args):
        pass

    def generate(self, x, y):
        return x + 0.5


def test_what_leaves_the_ball_breaks_nothing(target, resources, digits):
    x, y = images(digits)
    outcome = attack(target, x, y, step("fgm", 0.1, spec=replace(ATTACKS["fgm"], build=Cheat)), resources, ("a",))
    assert not outcome.within.any()
    assert outcome.robust(0).all()


def test_parts_are_joined_in_order(target, resources, digits):
    x, y = images(digits)
    parts = [attack(target, x[part], y[part], step("fgm", 0.1), resources, ("a",)) for part in ([0, 1], [2, 3, 4])]
    whole = joined(parts, target, step("fgm", 0.1))
    assert np.array_equal(whole.robust(0), attack(target, x[:5], y[:5], step("fgm", 0.1), resources, ("a",)).robust(0))
    assert joined([], target, step("fgm", 0.1, 0.2)).within.shape == (2, 0)


def test_of_a_random_model_every_repeat_is_joined(digits, resources):
    target = small_target(digits, "art-smoothing")
    x, y = images(digits, 4)
    parts = [attack(target, x, y, step("fgm", 0.1), resources, (number,)) for number in range(2)]
    whole = joined(parts, target, step("fgm", 0.1))
    assert whole.scores.single.shape == whole.scores.mean.shape == (target.repeats, 8)
    assert joined([], target, step("fgm", 0.1)).scores.mean.shape == (target.repeats, 0)


def test_the_plan_has_each_attack_in_its_norms_and_both_ways_where_there_are_two():
    asked = settings(
        attacks=("fgm", "deepfool", "square", "far-starts"), threats=(Threat("linf", (0.1, 0.2)), Threat("l1", (1.0,)))
    )
    plan = [(one.spec.name, one.view, one.norm, one.sizes) for one in plan_attacks(asked, ("default",))]
    assert ("deepfool", "default", "linf", (0.1, 0.2)) in plan  # one run answers both sizes
    assert ("fgm", "default", "linf", (0.2,)) in plan
    assert not any(name == "square" and norm == "l1" for name, _, norm, _ in plan)
    both = {(one.spec.name, one.view) for one in plan_attacks(asked, ("default", "adaptive"))}
    assert {("fgm", "default"), ("fgm", "adaptive"), ("far-starts", "adaptive")} <= both
    assert ("far-starts", "default") not in both  # it sees through preprocessing by itself


def test_accuracy_falls_with_the_size_of_the_noise(target, digits):
    x, y = images(digits)
    small, large = noise_accuracy(target, x, y, (Threat("linf", (1e-6, 1.0)),), seed=0)
    assert small.accuracy == pytest.approx(target.score(x, y, seed=0).correct.mean())
    assert large.accuracy < small.accuracy
