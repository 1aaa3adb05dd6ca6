"""Equal cost: what a budget buys, and what is drawn of it."""

import json
from dataclasses import replace
from shutil import rmtree
from statistics import fmean

import numpy as np
import pytest

from art_sensreg.benchmark.studies.experiments import Row, equal_cost, units
from art_sensreg.benchmark.studies.experiments.costs import Round
from art_sensreg.benchmark.studies.experiments.equal_cost import (
    Point,
    best_at,
    budgeted,
    epochs_within,
    equal_cost_tables,
    points_of,
    write_equal_cost,
)
from tests.benchmark.studies.small_experiment import SMALL, run
from tests.support.results import case, results, run_record

COST = replace(
    SMALL,
    rows=(
        Row(name="sr+jr", points=20),
        Row(name="jr", points=20, options={"jr_weight": 0.02}),
        Row(name="magic"),
    ),
    budgets=(2, 6),
    aimed=(),
)


def point(defence, budget, *shares):
    return Point(
        defence=defence, budget=budget, epochs=budget // 2, cost=2.0 * (budget // 2), seeds=len(shares), clean=0.99,
        robust={"linf 0.3": fmean(shares)}, by_seed={"linf 0.3": shares}, n={"linf 0.3": 10},
    )  # fmt: skip


def test_a_budget_buys_whole_epochs():
    costs = {"sr+jr": {"step_cost": 2.5}, "jr": {"step_cost": 2.0}}
    rows = {row.name: row for row in budgeted(COST, costs).rows}
    assert {name: row.settings["epochs"] for name, row in rows.items()} == {
        "jr_b2": 1, "sr+jr_b6": 2, "jr_b6": 3,
    }  # fmt: skip
    assert (rows["jr_b6"].trains, rows["jr_b6"].of, rows["jr_b6"].seeds) == ("jr", "jr", 1)
    assert epochs_within(0.3, 0.1) == 3  # for all the rounding of 0.3 / 0.1
    assert budgeted(COST, {}).rows == ()


def test_the_best_at_each_budget_is_marked(tmp_path):
    points = [point("a", 10, 0.5), point("a", 20, 0.6), point("b", 10, 0.4), point("b", 20, 0.6, 0.8)]
    assert {budget: best.defence for budget, best in best_at(points, "linf 0.3").items()} == {10: "a", 20: "b"}
    ((heading, table),) = equal_cost_tables(points)
    assert heading.startswith("linf 0.3")
    assert table.rows == [
        ["a", "50.0 [23.7, 76.3] (5) best", "60.0 [31.3, 83.2] (10)"],
        ["b", "40.0 [16.8, 68.7] (5)", "70.0 ± 14.1 [39.7, 89.2] (10) best"],
    ]
    elsewhere = replace(point("c", 10, 0.5), robust={"l2 1": 0.5}, by_seed={"l2 1": [0.5]}, n={"l2 1": 10})
    assert [row[0] for _, table in equal_cost_tables([*points, elsewhere]) for row in table.rows] == ["a", "b", "c"]
    assert write_equal_cost([], tmp_path) == ([], [])
    _, pictures = write_equal_cost(points, tmp_path)
    assert pictures == ["equal-cost-linf-0.3.png"]
    assert (tmp_path / pictures[0]).read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "equal-cost.json").read_text())[3]["robust"] == {"linf 0.3": 0.7}


def test_seeds_with_fewer_images_are_left_out():
    attacked = ((0, case(0.5, n=100)), (1, case(0.9, n=300)))
    runs = [run_record(defence="jr_b6", seed=seed, worst_case=(found,)) for seed, found in attacked]
    (found,) = points_of(COST, results(*runs, seeds=2), {"sr+jr": {"step_cost": 2.5}, "jr": {"step_cost": 2.0}})
    assert (found.by_seed, found.n) == ({"linf 0.1": [0.9]}, {"linf 0.1": 300})


def test_the_axis_spreads_out_what_is_close_to_100_percent():
    shares = np.array([0.0, 50.0, 90.0, 95.0, 100.0])
    places = equal_cost._spread(shares)
    np.testing.assert_allclose(equal_cost._WHOLE - 10.0**-places, shares, atol=1e-9)  # as the axis goes back
    assert places[3] - places[2] > 2 * (places[1] - places[0]) * (95 - 90) / 50


def test_costs_are_measured_first_and_decide_the_epochs(tmp_path, monkeypatch):
    def measured(suite, name, seed):
        seconds = {"sr+jr": 0.025, "jr": 0.02}[name]
        return Round(seconds=seconds, before=0.01, after=0.01, steps=13, threads=1, device="cpu")

    monkeypatch.setattr(units, "measure_round", measured)
    done, said = run(tmp_path, COST)
    assert done.complete
    assert [line.split("  ")[1] for line in said[1:7]] == [
        f"{name} seed 0: cost: step cost {cost}, median {cost}"
        for name, cost in (("sr+jr", "2.50"), ("jr", "2.00"))
        for _ in range(3)
    ]
    points = json.loads((tmp_path / "equal-cost.json").read_text())
    assert [(one["defence"], one["budget"], one["epochs"], one["cost"]) for one in points] == [
        ("sr+jr", 6, 2, 5.0), ("jr", 2, 1, 2.0), ("jr", 6, 3, 6.0),
    ]  # fmt: skip
    assert all(set(one["robust"]) == {"linf 0.02", "linf 0.05"} for one in points)
    text = (tmp_path / "report.md").read_text()
    assert text.index("## linf 0.02: robust accuracy, %") < text.index("## All rows")
    assert "Trained with the suite's defaults but for these rows:\n\n- jr: jr_weight 0.02\n\n" in text
    rmtree(tmp_path / "checkpoints")  # what is done needs no weights
    again, said = run(tmp_path, COST, rows=("jr",))
    assert again.complete
    assert len(said) == 1
    with pytest.raises(ValueError, match="`--only` is 'jr_b9'"):
        run(tmp_path, COST, rows=("jr_b9",))
    monkeypatch.setattr(units, "measure_round", lambda *given: measured(given[0], "jr", 0))
    dear = replace(COST, budgets=(1,))
    _, said = run(tmp_path / "dear", dear)
    assert said[-1].startswith("no row's epoch fits into a budget: [(2.0, 'jr'), (2.0, 'sr+jr')]")
