"""Experiments as declared: where they are kept, and their small form."""

from dataclasses import replace

from tests.benchmark.studies.small_experiment import SMALL


def test_an_experiment_may_share_the_folder_of_another():
    assert SMALL.out.as_posix() == "docs/results/small"
    assert replace(SMALL, folder="other").out.as_posix() == "docs/results/other"
    assert SMALL.seeds == 2


def test_the_tiny_form_keeps_the_rows():
    tiny = SMALL.tiny()
    assert [row.name for row in tiny.rows] == [row.name for row in SMALL.rows]
    assert tiny.request.budget == "smoke"
    assert tiny.request.norms == SMALL.request.norms
    assert tiny.rows[2].options == {"sigma": 0.1}
