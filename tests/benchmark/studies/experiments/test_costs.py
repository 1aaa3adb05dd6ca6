"""What a step costs: whole epochs between plain steps."""

import pytest

from art_sensreg.benchmark.defences.step_timing import PlainSteps
from art_sensreg.benchmark.studies.experiments import costs
from tests.benchmark.studies.small_experiment import laboratory


def test_drift_of_the_machine_is_divided_out(tmp_path, monkeypatch):
    now, speed = [0.0], [1.0]

    def plain(self):
        speed[0] *= 2  # the machine slows down all the time
        return speed[0]

    def train(self, spec, options):
        now[0] += 3 * spec.steps * 1.5 * speed[0]  # three plain steps at the speed in the middle

    monkeypatch.setattr(PlainSteps, "seconds", plain)
    monkeypatch.setattr(costs.time, "perf_counter", lambda: now[0])
    lab = laboratory(tmp_path)
    monkeypatch.setattr(type(costs.DEFENCES["sr+jr"]), "train", train)
    suite, cost = lab.cell(lab.rows[1], 0).suite, None
    for _ in range(3):
        cost = costs.with_round(cost, costs.measure_round(suite, "sr+jr"))
    assert [one["ratio"] for one in cost["rounds"]] == pytest.approx([3.0] * 3)
    assert cost["step_cost"] == pytest.approx(3.0)
    assert [one["steps"] for one in cost["rounds"]] == [104] * 3  # eight short epochs
    cost["rounds"][0]["ratio"] = 9.0
    assert costs.with_round(cost, costs.measure_round(suite, "sr+jr"))["step_cost"] == pytest.approx(3.0)
