import math

import numpy as np
import pytest
from scipy import stats

from art_sensreg.utils.stats import mean_half_width, share_half_width, wilson_interval


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (3, 10), (10, 10), (830, 1000)])
def test_wilson_ends_solve_the_score_equation(successes, n):
    """The ends are the shares p at which the observed share lies 1.96 standard errors of p away."""
    share = successes / n
    for end in wilson_interval(successes, n):
        if 0 < end < 1:
            assert abs(share - end) / math.sqrt(end * (1 - end) / n) == pytest.approx(1.959964, rel=1e-5)
        else:
            assert share == end


def test_the_half_width_of_a_mean_is_that_of_scipys_normal_interval():
    values = np.random.default_rng(0).normal(size=50)
    low, high = stats.norm.interval(0.95, loc=values.mean(), scale=stats.sem(values))
    assert mean_half_width(values) == pytest.approx((high - low) / 2)


def test_the_half_width_of_a_share_is_that_of_the_mean_of_its_outcomes():
    outcomes = np.repeat([1.0, 0.0], [30, 70])
    assert share_half_width((0.3, 100)) == pytest.approx(mean_half_width(outcomes) * math.sqrt(99 / 100))


def test_variances_of_two_shares_add_up():
    assert share_half_width((0.3, 50), (0.3, 50)) == pytest.approx(share_half_width((0.3, 25)))
