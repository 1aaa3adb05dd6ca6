"""The stages that only a GPU can run: their names, their times, and the page that has room for each."""

from art_sensreg.benchmark.gpu import run as gpu_run
from art_sensreg.benchmark.gpu.report import NOTES, TITLES
from art_sensreg.benchmark.gpu.stages import REDUCED, STAGES, Size


def test_the_page_has_a_heading_and_a_note_for_each_stage():
    assert set(TITLES) == {"tests", *STAGES}
    assert set(NOTES) == set(STAGES)


def test_problems_of_an_emulated_device_are_smaller():
    whole = Size()
    assert REDUCED.images < whole.images
    assert REDUCED.steps < whole.steps
    assert max(batch for _, batch, _ in REDUCED.timed) < min(batch for _, batch, _ in whole.timed)


def test_all_stages_fit_nine_minutes():
    assert gpu_run.TESTS_SECONDS + sum(limit for _, limit in STAGES.values()) <= 540
