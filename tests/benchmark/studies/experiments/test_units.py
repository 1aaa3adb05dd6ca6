"""The units of work: their order, what they leave, and what is attacked."""

from dataclasses import replace

import numpy as np
import pytest

from art_sensreg.benchmark.results.masks import read_mask
from art_sensreg.benchmark.studies.experiments import units
from art_sensreg.benchmark.studies.experiments.units import base_attack, units_of
from tests.benchmark.studies.experiments.small import SMALL, laboratory, run


def test_trainings_come_first_and_headline_rows_before_others(tmp_path):
    order = [str(unit) for unit in units_of(laboratory(tmp_path, replace(SMALL, audited=True, explained=True)))]
    assert order[:4] == [
        "sr+jr seed 0: train",
        "sr+jr seed 1: train",
        "none seed 0: train",
        "sr+jr_light seed 0: train",
    ]
    attacks = [line for line in order if "linf" in line]
    assert attacks == [
        *(f"{row}: autoattack linf 0.05" for row in ("sr+jr seed 0", "sr+jr seed 1", "none seed 0")),
        "sr+jr_light seed 0: autoattack linf 0.05",
        "sr+jr seed 0: hidden-away linf 0.05",
        *(f"{row}: autoattack linf 0.02" for row in ("sr+jr seed 0", "sr+jr seed 1", "none seed 0")),
        "sr+jr_light seed 0: autoattack linf 0.02",
    ]
    assert order.index("sr+jr seed 0: audit") < order.index("sr+jr seed 0: hidden-away linf 0.05")
    assert order.index("sr+jr_light seed 0: cost") < order.index("sr+jr seed 0: explain")
    no_attacks = replace(SMALL, rows=tuple(replace(row, points=0) for row in SMALL.rows), costed=False)
    assert {unit.kind for unit in units_of(laboratory(tmp_path, no_attacks))} == {"train", "aimed"}


def test_each_row_is_attacked_on_its_own_number_of_images(tmp_path, monkeypatch):
    monkeypatch.setitem(units.BLOCK, "cpu", 20)
    run(tmp_path, kinds=("train", "attack", "aimed"), seeds=(0,))
    lab = laboratory(tmp_path)
    for row in lab.rows:
        cell = lab.cell(row, 0)
        dataset = cell.suite.dataset
        assert len(dataset.x_test) == 60
        assert cell.record.clean_accuracy == pytest.approx(
            cell.target.score(dataset.x_test, dataset.y_test, 0).correct.mean()
        )
        for eps in (0.02, 0.05):
            one = cell.record.attack((base_attack(row.name), "linf", eps, "default"))
            robust, attacked = read_mask(tmp_path, one.mask)
            assert attacked.tolist() == [number < row.points for number in range(60)]
            assert one.n == row.points
            assert one.robust_accuracy == pytest.approx(robust[: row.points].mean())
    headline = lab.cell(lab.rows[1], 0)
    base, aimed = (headline.record.attack((name, "linf", 0.05, "default")) for name in ("autoattack", "hidden-away"))
    left, after = (read_mask(tmp_path, one.mask)[0] for one in (base, aimed))
    seen = np.load(tmp_path / aimed.mask)["seen"]
    assert aimed.seen == 12
    assert np.flatnonzero(seen).tolist() == np.flatnonzero(left)[:12].tolist()
    assert not (after & ~left).any()
    assert (after == left)[~seen].all()


def test_more_images_are_added_to_those_that_are_done(tmp_path, monkeypatch):
    few = replace(SMALL, rows=(replace(SMALL.rows[0], points=20),), aimed=())
    monkeypatch.setitem(units.BLOCK, "cpu", 10)
    run(tmp_path, few, kinds=("train", "attack"))
    many = replace(few, rows=(replace(few.rows[0], points=30),))
    _, said = run(tmp_path, many, kinds=("train", "attack"))
    assert len([line for line in said if "of 30" in line]) == 2
    assert not [line for line in said if "train" in line or "of 20" in line]


def test_a_lost_mask_is_made_again(tmp_path):
    one = replace(SMALL, rows=(replace(SMALL.rows[1], seeds=1),))
    run(tmp_path, one, kinds=("train", "attack", "aimed"))
    before = {path: np.load(path)["robust"].tolist() for path in (tmp_path / "masks").glob("*0.05*")}
    assert len(before) == 2
    for path in before:
        path.unlink()
    run(tmp_path, one, kinds=("train", "attack", "aimed"))
    assert {path: np.load(path)["robust"].tolist() for path in before} == before


def test_a_row_is_audited_and_explained(tmp_path):
    experiment = replace(SMALL, rows=SMALL.rows[:2], audited=True, explained=True)
    rows = tuple(replace(row, seeds=1) for row in experiment.rows)
    run(tmp_path, replace(experiment, rows=rows), kinds=("train", "noise", "audit", "explain"))
    lab = laboratory(tmp_path, replace(experiment, rows=rows))
    record = lab.cell(lab.rows[1], 0).record
    assert record.audit.verdict
    assert record.explanations
    assert [noise.eps for noise in record.random_noise] == [0.02, 0.05]
    assert lab.cell(lab.rows[0], 0).record.audit is None
