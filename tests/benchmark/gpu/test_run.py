"""All stages of `benchmarks/gpu.py`: what fails is recorded and stops nothing."""

from tests.benchmark.gpu.stand_in import stages


def test_a_failing_stage_ends_nothing(monkeypatch):
    found = {stage.stage: stage for stage in stages(monkeypatch)}
    assert {name: stage.status for name, stage in found.items()} == {
        "tests": "failed", "waits": "failed", "agreement": "timeout", "resume": "failed", "precision": "ok",
        "step_cost": "ok",
    }  # fmt: skip
    assert found["waits"].reason == "RuntimeError: no such kernel"
    assert found["precision"].records == ({"what": "precision", "waits": 1},)
    assert found["tests"].records[1] == {"test": "tests/a.py::c", "outcome": "failed"}


def test_what_does_not_fit_the_time_is_left_out(monkeypatch):
    assert {stage.status for stage in stages(monkeypatch, seconds=1.0)} == {"left out"}
