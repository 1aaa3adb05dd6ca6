"""The rule that chooses settings on held-out training images."""

from dataclasses import replace

import pytest

from art_sensreg.benchmark.defences import DEFENCES
from art_sensreg.benchmark.studies.choose_settings import GRIDS, chosen
from tests.support.results import case, run_record


def test_candidates_set_options_that_their_defences_have():
    for name, grid in GRIDS.items():
        for settings in grid:
            assert set(settings) <= set(DEFENCES[name].options)
        assert len({tuple(settings.items()) for settings in grid}) == len(grid)


def candidate(weight, clean, *worst, half=0.05):
    cases = [replace(case(share), ci_low=share - half, ci_high=share + half) for share in worst]
    return {"weight": weight}, run_record(clean_accuracy=clean, worst_case=tuple(cases))


@pytest.mark.parametrize(
    ("candidates", "weight"),
    [
        ([candidate(1.0, 0.99, 0.8, 0.3), candidate(2.0, 0.99, 0.95, 0.6)], 2.0),  # the best
        ([candidate(1.0, 0.99, 0.9, 0.55), candidate(2.0, 0.99, 0.95, 0.6)], 1.0),  # as good, and lighter
        ([candidate(1.0, 0.99, 0.9, 0.3), candidate(2.0, 0.99, 0.95, 0.6)], 2.0),  # as good at one eps only
        ([candidate(1.0, 0.99, 0.8, 0.3), candidate(2.0, 0.97, 0.95, 0.6)], 1.0),  # at the cost of clean accuracy
        ([candidate(1.0, 0.98, 0.8, 0.3), candidate(2.0, 0.99, 0.81, 0.31)], 1.0),  # one point is still allowed
    ],
)
def test_the_rule(candidates, weight):
    assert chosen(candidates) == {"weight": weight}
