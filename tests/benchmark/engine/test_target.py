"""How trained defences are attacked and scored."""

import numpy as np
import pytest

from art_sensreg.benchmark.engine.target import REPEATS
from tests.benchmark.engine.models import images, small_target


@pytest.mark.parametrize(
    ("defence", "views"),
    [("none", 1), ("quantise", 2), ("art-rounded", 2), ("art-gaussian-augmentation", 2)],
)
def test_what_stands_around_a_model_is_attacked_in_two_ways(digits, defence, views):
    target = small_target(digits, defence)
    assert len(target.views) == views
    assert (target.with_gradients is target.default) == (views == 1)


def test_gradients_pass_through_what_has_none(digits):
    target = small_target(digits, "quantise")
    x, y = images(digits, 4)
    gradients = [np.abs(target.classifier(view).loss_gradient(x, np.eye(10)[y])).max() for view in target.views]
    assert gradients[0] == 0
    assert gradients[1] > 0


def test_scores_are_those_of_the_defended_model(digits):
    target = small_target(digits, "art-rounded")
    x, y = images(digits)
    assert np.array_equal(target.score(x, y, seed=0).correct, target.default.predict(x).argmax(1) == y)


def test_a_random_model_is_scored_several_times(digits):
    target = small_target(digits, "art-smoothing", sigma=0.5)
    x, y = images(digits)
    scores = target.score(x, y, seed=0)
    assert scores.single.shape == scores.mean.shape == (REPEATS["smoke"], 20)
    assert np.array_equal(scores.correct, scores.mean.mean(axis=0) > 0.5)
    assert np.array_equal(scores.single, target.score(x, y, seed=0).single)
    assert target.attackable(1000) == target.points == target.attackable(target.points)
    assert target.scored(1000) >= target.points
