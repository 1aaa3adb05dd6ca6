"""Variants are timed in one process, and one that fails takes no other with it."""

import torch

from art_sensreg.benchmark.defences import NotApplicable
from art_sensreg.benchmark.step_cost.report import cost_table, note_lines
from art_sensreg.benchmark.step_cost.timing import StepCostSettings, run_step_cost, seconds_of
from art_sensreg.benchmark.step_cost.variants import VARIANTS, Variant


def test_the_time_of_several_calls_is_that_of_one():
    calls = []
    assert seconds_of(lambda: calls.append(0), torch.device("cpu"), calls=3) > 0
    assert len(calls) == 3


def test_what_does_not_run_has_its_reason(monkeypatch):
    def refuse(bench):
        raise NotApplicable("it is not there")

    def fail():
        raise RuntimeError("it\nbroke in /some/folder/file.py")

    monkeypatch.setitem(VARIANTS, "art-fit", Variant("art-fit", "-", refuse, ours=False))
    monkeypatch.setitem(VARIANTS, "plain", Variant("plain", "-", lambda bench: fail))
    settings = StepCostSettings(
        models=("mlp",), variants=("plain", "art-fit", "fgsm"), batch_size=8, repeats=2, epoch_steps=2, memory=False
    )
    (model,) = run_step_cost(settings).models
    assert [record.status for record in model.variants] == ["error", "not_applicable", "ok"]
    assert len(model.variants[2].ratios) == 2
    assert note_lines(model) == [
        "plain: failed: RuntimeError: it broke in file.py",
        "art-fit: not available: it is not there",
    ]
    assert cost_table(model).rows[0][-1] == "failed: RuntimeError: it broke in file.py"


def test_memory_that_is_not_measured_has_its_reason(monkeypatch):
    def fail(*settings):
        raise RuntimeError("no /proc/self/status")

    monkeypatch.setattr("art_sensreg.benchmark.step_cost.timing.memory_in_child", fail)
    settings = StepCostSettings(models=("mlp",), variants=("sr+jr",), batch_size=8, repeats=1, epoch_steps=2)
    ((record,),) = (model.variants for model in run_step_cost(settings).models)
    assert (record.memory, record.reason) == ((), "memory not measured: no status")
