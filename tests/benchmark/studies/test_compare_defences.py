"""Two defences compared image by image."""

import pytest

from art_sensreg.benchmark.studies.compare_defences import comparison_table
from tests.support.results import attacked, results, run_record


def stored(tmp_path, **outcomes):
    """A run of each name with what one attack left at both sizes."""
    runs = [
        run_record(
            defence=name,
            seed=seed,
            attacks=tuple(attacked(tmp_path, f"{name}-{seed}", left, eps=eps) for eps in (0.1, 0.2)),
        )
        for name, by_seed in outcomes.items()
        for seed, left in enumerate(by_seed)
    ]
    return results(*runs)


def test_the_difference_is_that_of_each_image_over_the_seeds(tmp_path):
    found = stored(tmp_path, none=[[1, 0, 0, 0], [1, 1, 0, 0]], sr=[[1, 1, 1, 0], [1, 1, 0, 0]])
    table = comparison_table(found, tmp_path, "none", "sr")
    assert table.header[1:3] == ["none: robust %", "sr: robust %"]
    first = table.rows[0]
    assert first[:3] == ["0.1", "37.50", "62.50"]
    assert first[3].startswith("+25.00 [")
    assert first[4:] == ["+50.00, +0.00", "4"]


def test_what_cannot_be_compared_is_said(tmp_path):
    found = stored(tmp_path, none=[[1, 0]], sr=[[1, 1]])
    with pytest.raises(ValueError, match=r"no seed has both none and srr in .*Did you mean 'sr'"):
        comparison_table(found, tmp_path, "none", "srr")
    with pytest.raises(ValueError, match=r"none was not attacked at linf 0\.1"):
        comparison_table(results(run_record(), run_record(defence="sr")), tmp_path, "none", "sr")
