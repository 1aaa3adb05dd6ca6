"""AutoAttack block by block, and the aimed attacks on what it left."""

from dataclasses import replace

import numpy as np
import pytest

from art_sensreg.benchmark.results.masks import read_mask, worst_case, write_mask
from art_sensreg.benchmark.studies.experiments import attack_units
from art_sensreg.benchmark.studies.experiments.attack_units import base_attack
from tests.benchmark.studies.small_experiment import SMALL, laboratory, run


def test_each_row_is_attacked_on_its_own_number_of_images(tmp_path, monkeypatch):
    monkeypatch.setitem(attack_units.BLOCK, "cpu", 20)
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
    monkeypatch.setitem(attack_units.BLOCK, "cpu", 10)
    run(tmp_path, few, kinds=("train", "attack"))
    many = replace(few, rows=(replace(few.rows[0], points=30),))
    _, said = run(tmp_path, many, kinds=("train", "attack"))
    assert len([line for line in said if "of 30" in line]) == 2
    assert not [line for line in said if "train" in line or "of 20" in line]


def aimed_outcome(out, experiment):
    """What AutoAttack left, what the aimed attack left of that, its record, and the worst case."""
    record = laboratory(out, experiment).cell(experiment.rows[0], 0).record
    base, aimed = (record.attack((name, "linf", 0.05, "default")) for name in ("autoattack", "hidden-away"))
    left, after = (read_mask(out, one.mask)[0] for one in (base, aimed))
    return left, after, aimed, worst_case(out, record, ("linf", 0.05))


@pytest.mark.parametrize("kinds", [("train", "attack"), ("train", "attack", "aimed")], ids=["attack", "aimed too"])
def test_images_that_came_after_an_aimed_attack_are_not_taken_for_broken(tmp_path, monkeypatch, kinds):
    monkeypatch.setitem(attack_units.BLOCK, "cpu", 10)
    few = replace(SMALL, rows=(replace(SMALL.rows[1], seeds=1, points=20),), aimed_points=8)
    run(tmp_path, few, kinds=("train", "attack", "aimed"))
    left, after, aimed, _ = aimed_outcome(tmp_path, few)
    broken = left & ~after
    broken[np.flatnonzero(after)[0]] = True  # as if the aimed attack had broken one
    seen = np.load(tmp_path / aimed.mask)["seen"]
    write_mask(tmp_path, aimed.mask, left & ~broken, np.arange(60) < 20, seen)
    many = replace(few, rows=(replace(few.rows[0], points=50),))
    run(tmp_path, many, kinds=kinds)
    left, after, aimed, worst = aimed_outcome(tmp_path, many)
    assert left[20:].any()
    assert (after == (left & ~broken)).all()
    assert (aimed.n, aimed.seen) == (50, seen.sum())
    assert aimed.robust_accuracy == pytest.approx(after[:50].mean())
    assert (worst.n, worst.robust_accuracy) == (50, pytest.approx(after[:50].mean()))


def test_an_aimed_attack_that_fell_behind_is_brought_up_to_date(tmp_path, monkeypatch):
    """As where the process was killed between the two, or by an earlier version."""
    monkeypatch.setitem(attack_units.BLOCK, "cpu", 10)
    few = replace(SMALL, rows=(replace(SMALL.rows[1], seeds=1, points=20),), aimed_points=8)
    run(tmp_path, few, kinds=("train", "attack", "aimed"))
    many = replace(few, rows=(replace(few.rows[0], points=50),))
    run(tmp_path, replace(many, aimed=()), kinds=("train", "attack"))
    left, after, aimed, worst = aimed_outcome(tmp_path, many)
    assert (aimed.n, after[20:].any()) == (20, False)
    assert worst.robust_accuracy == pytest.approx((after[:20].sum() + left[20:50].sum()) / 50)
    run(tmp_path, many, kinds=("train", "attack", "aimed"))
    left, after, aimed, worst = aimed_outcome(tmp_path, many)
    assert (aimed.n, aimed.seen) == (50, 8)
    assert (after[20:50] == left[20:50]).all()
    assert worst.robust_accuracy == pytest.approx(after[:50].mean())


def test_nothing_of_an_aimed_attack_is_lost_when_fewer_images_are_wanted(tmp_path, monkeypatch):
    monkeypatch.setitem(attack_units.BLOCK, "cpu", 10)
    many = replace(SMALL, rows=(replace(SMALL.rows[1], seeds=1, points=20),), aimed_points=8)
    run(tmp_path, many, kinds=("train", "attack", "aimed"))
    left, after, aimed, _ = aimed_outcome(tmp_path, many)
    seen = np.load(tmp_path / aimed.mask)["seen"]
    broken = np.flatnonzero(left)[7]
    after[broken] = False  # as if the last that it saw had been broken
    write_mask(tmp_path, aimed.mask, after, np.arange(60) < 20, seen)
    few = replace(many, rows=(replace(many.rows[0], points=50),), aimed_points=3)
    run(tmp_path, few, kinds=("train", "attack", "aimed"))
    left, after, aimed, _ = aimed_outcome(tmp_path, few)
    assert (aimed.n, aimed.seen) == (50, 8)
    assert np.flatnonzero(left & ~after).tolist() == [broken]
    assert (np.load(tmp_path / aimed.mask)["seen"] == seen).all()


def test_an_aimed_attack_waits_while_a_lost_mask_of_autoattack_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setitem(attack_units.BLOCK, "cpu", 10)
    one = replace(SMALL, rows=(replace(SMALL.rows[1], seeds=1, points=20),), aimed_points=8)
    run(tmp_path, one, kinds=("train", "attack", "aimed"))
    left, after, aimed, _ = aimed_outcome(tmp_path, one)
    after[np.flatnonzero(left)[7]] = False  # as if the last that it saw had been broken
    write_mask(tmp_path, aimed.mask, after, np.arange(60) < 20, np.load(tmp_path / aimed.mask)["seen"])
    next((tmp_path / "masks").glob("*autoattack*0.05*")).unlink()
    monkeypatch.setitem(attack_units.BLOCK, "cpu", 5)
    run(tmp_path, one, kinds=("train", "attack"))
    assert (aimed_outcome(tmp_path, one)[1] == after).all()


def test_outcomes_of_a_model_that_was_trained_before_are_not_taken_over(tmp_path, monkeypatch):
    monkeypatch.setitem(attack_units.BLOCK, "cpu", 20)
    rows = [replace(SMALL.rows[0], points=points, settings={"epochs": epochs}) for points, epochs in ((20, 1), (60, 4))]
    former, later = (replace(SMALL, rows=(row,), aimed=()) for row in rows)
    run(tmp_path, former, kinds=("train", "attack"))
    with pytest.raises(ValueError, match="remove it to do it again"):
        run(tmp_path, later, kinds=("train", "attack"))
    (tmp_path / "records" / "none-seed0.json").unlink()
    assert run(tmp_path, later, kinds=("train", "attack"))[0].complete
    run(tmp_path / "afresh", later, kinds=("train", "attack"))

    def outcomes(out):
        attacks = laboratory(out, later).cell(later.rows[0], 0).record.attacks
        return {one.key: (one.n, one.robust_accuracy, read_mask(out, one.mask)[0].tolist()) for one in attacks}

    assert len(outcomes(tmp_path)) == 2
    assert outcomes(tmp_path) == outcomes(tmp_path / "afresh")


def test_a_block_whose_record_was_not_written_is_attacked_again(tmp_path, monkeypatch):
    monkeypatch.setitem(attack_units.BLOCK, "cpu", 10)
    one = replace(SMALL, rows=(replace(SMALL.rows[0], points=20),), aimed=())
    run(tmp_path, one, kinds=("train", "attack"))
    (mask,) = (tmp_path / "masks").glob("*0.05*")
    robust, attacked = read_mask(tmp_path, f"masks/{mask.name}")
    robust[20:], attacked[20:] = True, True  # as if more had been attacked when the process was killed
    write_mask(tmp_path, f"masks/{mask.name}", robust, attacked)
    more = replace(one, rows=(replace(one.rows[0], points=30),))
    run(tmp_path, more, kinds=("train", "attack"))
    found = laboratory(tmp_path, more).cell(more.rows[0], 0).record.attack(("autoattack", "linf", 0.05, "default"))
    assert found.n == 30
    assert read_mask(tmp_path, found.mask)[1].sum() == 30


def test_a_lost_mask_is_made_again(tmp_path):
    one = replace(SMALL, rows=(replace(SMALL.rows[1], seeds=1),))
    run(tmp_path, one, kinds=("train", "attack", "aimed"))
    before = {path: np.load(path)["robust"].tolist() for path in (tmp_path / "masks").glob("*0.05*")}
    assert len(before) == 2
    for path in before:
        path.unlink()
    run(tmp_path, one, kinds=("train", "attack", "aimed"))
    assert {path: np.load(path)["robust"].tolist() for path in before} == before
