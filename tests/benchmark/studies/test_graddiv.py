"""Which weight of GradDiv is chosen, and how the figures are shown."""

import pytest

from art_sensreg.benchmark.studies.graddiv import chosen_weight, comparison_table, cosine_lowered, weight_table


def figures(cosine, clean):
    return {"cosine": cosine, "clean": clean}


def test_the_smallest_weight_that_lowers_the_cosine_by_a_third_is_chosen():
    tried = {0.0: figures(0.9, 0.98), 0.02: figures(0.7, 0.98), 0.05: figures(0.5, 0.98), 0.1: figures(0.1, 0.98)}
    assert chosen_weight(tried) == 0.05
    assert chosen_weight({**tried, 0.05: figures(0.5, 0.9)}) == 0.1
    with pytest.raises(ValueError, match="no weight lowers the cosine"):
        chosen_weight({0.0: figures(0.9, 0.98), 0.1: figures(0.8, 0.98)})


def test_tables_show_percentages_and_the_spread_over_seeds():
    assert weight_table({0.0: figures(0.9, 0.98)}).rows == [["0", "0.9", "98"]]
    found = {"rse": [figures(0.8, 0.5), figures(0.8, 0.7)], "rse + GradDiv": [figures(0.4, 0.5), figures(0.4, 0.5)]}
    assert comparison_table(found).rows[0] == ["rse", "0.8 ± 0", "60 ± 14"]
    assert cosine_lowered(found) == pytest.approx(0.5)
