"""An experiment in pieces: what stops, goes on, works side by side, and ends the same."""

import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest

from art_sensreg.benchmark.studies.experiments import Row, attack_units, units
from art_sensreg.benchmark.studies.experiments import run as run_module
from art_sensreg.benchmark.studies.experiments.folder import ExperimentFolder
from art_sensreg.benchmark.studies.experiments.run import Choice, TimeUp, time_limit
from tests.benchmark.studies.small_experiment import SMALL, laboratory, run


def masks(out):
    return {path.name: np.load(path)["robust"].tolist() for path in sorted((out / "masks").glob("*.npz"))}


PIECES = replace(SMALL, rows=(replace(SMALL.rows[1], seeds=1, points=30), SMALL.rows[-1]), costed=False)


def test_pieces_end_like_a_run_in_one_go(tmp_path, monkeypatch):
    monkeypatch.setitem(attack_units.BLOCK, "cpu", 20)
    monkeypatch.setattr(run_module, "write_pages", lambda *given: ())
    done, said = run(tmp_path / "whole", PIECES)
    assert done.complete
    assert not done.failures
    assert said[0] == "left out: magic: there is no defence 'magic' in this version."
    again, said_again = run(tmp_path / "whole", PIECES)
    assert again.complete
    assert said_again == said[:1]
    # In pieces: each call ends after a unit, and each begins like a fresh clone, without what is not committed.
    works = units.KINDS["attack"][1]
    for _ in range(40):
        calls = []

        def once(*given, calls=calls):
            calls.append(given)
            os.kill(os.getpid(), signal.SIGTERM)
            return works(*given)

        monkeypatch.setitem(units.KINDS, "attack", (units.KINDS["attack"][0], once))
        done, _ = run(tmp_path / "pieces", PIECES)
        for path in (tmp_path / "pieces" / "checkpoints").glob("*.safetensors"):
            path.unlink()
        assert len(calls) <= 1
        if done.complete:
            break
    assert done.complete
    assert masks(tmp_path / "pieces") == masks(tmp_path / "whole")
    whole, pieces = (ExperimentFolder(tmp_path / name).run("sr+jr", 0).attacks for name in ("whole", "pieces"))
    assert len(whole) == 3
    assert [(one.key, one.n, one.robust_accuracy) for one in whole] == [
        (one.key, one.n, one.robust_accuracy) for one in pieces
    ]


def test_a_model_without_weights_is_trained_again_where_something_is_left_to_do(tmp_path):
    """The weights of many rows are not committed."""
    experiment = replace(PIECES, rows=(replace(SMALL.rows[0]), replace(SMALL.rows[2])))
    assert run(tmp_path, experiment, rows=("none",))[0].complete
    run(tmp_path, experiment, rows=("sr+jr_light",), kinds=("train", "noise"))
    for path in (tmp_path / "checkpoints").glob("*.safetensors*"):
        path.unlink()
    done, said = run(tmp_path, experiment)
    assert done.complete
    assert not any("none" in line for line in said)  # all of it is done
    again = [line for line in said if "the weights are not in the folder: trained again, clean" in line]
    assert len(again) == 1
    assert "sr+jr_light seed 0: autoattack" in again[0]
    record = ExperimentFolder(tmp_path).run("sr+jr_light", 0)
    assert [one.n for one in record.attacks] == [20, 20]


def test_what_another_process_holds_is_left_alone(tmp_path):
    folder = ExperimentFolder(tmp_path)
    with folder.taken("sr+jr", 0) as free:
        assert free
        done, said = run(tmp_path, rows=("sr+jr",), kinds=("train",))
    assert not done.complete
    assert [line for line in said if "train" in line] == [line for line in said if "sr+jr seed 1: train" in line]
    assert run(tmp_path, rows=("sr+jr",), kinds=("train",))[0].complete


def test_a_failure_is_told_and_does_not_stop_the_rest(tmp_path, monkeypatch):
    def fails(*given):
        raise RuntimeError("no")

    monkeypatch.setitem(units.KINDS, "noise", (units.KINDS["noise"][0], fails))
    done, _ = run(tmp_path, rows=("none",), kinds=("train", "noise", "attack"))
    assert done.failures == ("none seed 0: noise: RuntimeError: no",)
    assert not done.complete
    assert ExperimentFolder(tmp_path).run("none", 0).attacks


def test_a_training_that_crashes_is_tried_once_a_call(tmp_path):
    wild = replace(SMALL, rows=(SMALL.rows[0], Row(name="wild", defence="sr", options={"sr_weight": 1e38})), aimed=())
    for _ in range(2):
        done, said = run(tmp_path, wild, kinds=("train", "attack"))
        assert len(done.failures) == 1
        assert "wild seed 0: train: " in done.failures[0]
        assert len([line for line in said if "wild seed 0: train" in line]) == 1
        assert done.rest_done
        assert not done.complete


def test_the_time_ends_a_training_that_can_go_on_and_lets_other_units_finish():
    former = signal.getsignal(signal.SIGTERM)
    with time_limit(None) as clock:
        os.kill(os.getpid(), signal.SIGTERM)
        assert clock.over
    with time_limit(1e-5) as clock:
        while not clock.over:
            time.sleep(0.001)
    with time_limit(None) as clock:
        clock.may_interrupt = True
        with pytest.raises(TimeUp):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == former


def test_what_is_not_there_is_refused(tmp_path):
    for choice, reason in (
        ({"rows": ("magic",)}, "`--only` names magic: there is no defence 'magic'"),
        ({"rows": ("nine",)}, "`--only` is 'nine'"),
        ({"kinds": ("dance",)}, "`--kinds` is 'dance'"),
        ({"sizes": (("linf", 7.0),)}, "`--sizes` names linf:7; the sizes of this experiment: "),
        ({"seeds": (0, 7)}, "`--seeds` names 7; the seeds of these rows: 0"),
        ({"rows": ("none",), "kinds": ("aimed",)}, "`--only`, `--kinds`: this experiment has nothing of that kind"),
    ):
        with pytest.raises(ValueError, match=reason):
            Choice(**choice).check(laboratory(tmp_path))


def test_sizes_and_points_choose_a_part_of_the_attacks(tmp_path):
    experiment = replace(SMALL, rows=(replace(SMALL.rows[0], points=30),), aimed=())
    (norm, eps), *_ = {unit.threat for unit in units.units_of(laboratory(tmp_path / "a", experiment)) if unit.attack}
    choice = {"sizes": ((norm, eps * (1 + 1e-5)),), "points": 10}
    done, _ = run(tmp_path / "b", experiment, **choice)
    assert done.complete
    record = ExperimentFolder(tmp_path / "b").run(SMALL.rows[0].name, 0)
    assert [(one.norm, one.eps, one.n) for one in record.attacks] == [(norm, eps, 10)]
    assert record.random_noise is not None  # what has no size is not left out
    done, _ = run(tmp_path / "b", experiment)
    assert done.complete
    assert {one.n for one in ExperimentFolder(tmp_path / "b").run(SMALL.rows[0].name, 0).attacks} == {30}
