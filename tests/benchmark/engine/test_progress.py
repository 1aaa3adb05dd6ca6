"""Progress: every cell is counted once, and the estimate is near the truth where the cells are like one another."""

from __future__ import annotations

from dataclasses import replace

import pytest

from art_sensreg.benchmark import SuiteRequest
from art_sensreg.benchmark.cli.suite import main
from art_sensreg.benchmark.engine.plan import plan_training
from art_sensreg.benchmark.engine.progress import AUDIT, EVALUATIONS, TRAINING, Progress, cells_of, in_words
from art_sensreg.benchmark.results.reading import read_results
from art_sensreg.benchmark.results.records import Results
from tests.benchmark.runs import SMALL

RUNS = [(name, seed) for seed in (0, 1) for name in ("none", "sr+jr", "art-madry")]
STAGES = ("fgm", "pgd", "autoattack")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_every_cell_is_counted_with_the_audits():
    request = SuiteRequest(defences=("none", "sr", "quantise"), attacks=("fgm", "pgd"), seeds=2)
    plan = plan_training(request)
    empty = Results(config=plan.settings, environment={}, runs=())
    cells = cells_of(plan.settings, 100, True, empty)
    assert len(cells) == 2 * 3 * (1 + 2 + 1 + 1)
    assert {stage for _, stage in cells} == {TRAINING, "fgm", "pgd", EVALUATIONS, AUDIT}
    assert len(cells_of(plan.settings, 100, False, empty)) == 2 * 3 * (1 + 2 + 1)
    assert cells[("quantise", 0), TRAINING] < cells[("sr", 0), TRAINING]


def simulated(progress: Progress, clock: Clock, seconds) -> list[tuple[float, float]]:
    """Run all cells one after another; at each beginning the estimate, and what is left in truth."""
    left = sum(seconds(cell) for cell in progress.left)
    seen = []
    for seed in (0, 1):
        order = [(run, TRAINING) for run in RUNS if run[1] == seed]
        order += [(run, stage) for run in RUNS if run[1] == seed for stage in STAGES]
        for cell in order:
            progress.begin(*cell)
            seen.append((progress.seconds_left(), left))
            clock.now += seconds(cell)
            left -= seconds(cell)
            progress.end(cell[0])
    return seen


@pytest.mark.parametrize("speed", [0.1, 1.0, 30.0])
def test_the_estimate_learns_how_fast_this_machine_is(speed):
    clock = Clock()
    guesses = {(run, stage): 1.0 for run in RUNS for stage in (TRAINING, *STAGES)}
    steps = {"none": 1.0, "sr+jr": 2.0, "art-madry": 8.0}

    def seconds(cell):
        (name, _), stage = cell
        return speed * (steps[name] if stage == TRAINING else {"fgm": 0.1, "pgd": 1.0, "autoattack": 6.0}[stage])

    progress = Progress(guesses, silent=True, clock=clock)
    seen = simulated(progress, clock, seconds)
    assert progress.left == {}
    total = seen[0][1]
    # The trainings differ, and repeat with the second seed; attacks are known once the first defence was attacked.
    assert all(abs(estimate - truth) < 0.15 * total for estimate, truth in seen[6:])
    assert all(abs(estimate - truth) < 0.01 * total for estimate, truth in seen[12:])


def test_a_cell_that_runs_counts_down_and_what_fails_is_dropped():
    clock = Clock()
    progress = Progress({(("sr", 0), stage): 10.0 for stage in (TRAINING, *STAGES)}, silent=True, clock=clock)
    progress.begin(("sr", 0), TRAINING)
    clock.now = 4.0
    assert progress.seconds_left() == pytest.approx(36.0)
    clock.now = 20.0
    progress.end(("sr", 0))
    assert 55.0 < progress.seconds_left() <= 60.0  # twice as long as guessed
    progress.drop(("sr", 0))
    assert (progress.left, progress.seconds_left()) == ({}, 0.0)


def test_workers_share_the_attacks_and_the_slowest_run_is_waited_for():
    cells = {((name, 0), stage): 10.0 for name in ("a", "b", "c") for stage in STAGES}
    assert Progress(cells, silent=True).seconds_left() == pytest.approx(90.0)
    assert Progress(cells, workers=2, silent=True).seconds_left() == pytest.approx(45.0)
    assert Progress(cells, workers=8, silent=True).seconds_left() == pytest.approx(30.0)


def test_the_bar_says_what_runs_and_how_many_cells_are_left(tmp_path, capsys):
    words = [word for word in SMALL if word != "--quiet"]
    assert main([*words, "--defences", "none,sr", "--attacks", "fgm,pgd", "--jobs", "2", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().err.split("\r")
    assert any("sr, seed 0: training" in line for line in shown)
    assert any("0 of 8 cells, 8 left, about " in line for line in shown)
    assert "8 of 8 cells, 0 left, about 5 s (until" in shown[-1]
    stored = read_results(tmp_path / "results.json")
    settings = replace(stored.config, attacks=("fgm", "pgd", "square"))
    # A resumed run has the new attack and the evaluations left.
    assert {stage for _, stage in cells_of(settings, 300, False, stored)} == {"square", EVALUATIONS}


def test_words():
    assert [in_words(seconds) for seconds in (0, 89, 90, 5399, 5400)] == [
        "about 5 s", "about 90 s", "about 2 min", "about 90 min", "about 1.5 h",
    ]  # fmt: skip
