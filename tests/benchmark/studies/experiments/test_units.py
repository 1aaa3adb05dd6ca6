"""The units of work: their order, and what they leave."""

from dataclasses import replace
from functools import partial

import pytest

from art_sensreg.benchmark.defences.registry import DEFENCES
from art_sensreg.benchmark.defences.spec import Certificate
from art_sensreg.benchmark.engine import audit as engine_audit
from art_sensreg.benchmark.studies.experiments.units import units_of
from tests.benchmark.studies.small_experiment import SMALL, laboratory, run


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


def test_an_audit_is_repeated_when_the_twin_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_audit, "audit", partial(engine_audit.audit, checks=("clean_accuracy", "twin_falls")))
    rows = (SMALL.rows[0], replace(SMALL.rows[1], seeds=1))
    experiment = replace(SMALL, rows=rows, audited=True)

    def audited():
        checks = laboratory(tmp_path, experiment).cell(rows[1], 0).record.audit.checks
        return {check.name: check.status for check in checks}["twin_falls"]

    run(tmp_path, experiment, rows=("sr+jr",), kinds=("train", "audit"))
    assert audited() == "SKIP"
    assert run(tmp_path, experiment, rows=("sr+jr",), kinds=("audit",))[1] == []
    run(tmp_path, experiment, rows=("none",), kinds=("train",))
    run(tmp_path, experiment, rows=("sr+jr",), kinds=("audit",))
    assert audited() in ("PASS", "FAIL")
    assert run(tmp_path, experiment, rows=("sr+jr",), kinds=("audit",))[1] == []


def test_what_certifies_is_certified(tmp_path, monkeypatch):
    def certify(spec, model, x, y, eps, options):
        return y < (5 if eps < 0.03 else 2)

    certified = replace(DEFENCES["none"], certificate=Certificate(norm="linf", certify=certify))
    monkeypatch.setitem(DEFENCES, "none", certified)
    one = replace(SMALL, rows=SMALL.rows[:1], aimed=())
    _, said = run(tmp_path, one, kinds=("train", "certify"))
    lab = laboratory(tmp_path, one)
    y = lab.plan.dataset.y_test[:50]
    found = lab.cell(lab.rows[0], 0).record.certified
    assert [case.accuracy for case in found] == pytest.approx([(y < 5).mean(), (y < 2).mean()])
    assert "none seed 0: certify: linf 0.02: " in said[-1]
    assert len(run(tmp_path, one, kinds=("train", "certify"))[1]) == 0
