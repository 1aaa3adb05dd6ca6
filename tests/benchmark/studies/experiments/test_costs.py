"""What a step costs: whole epochs between plain steps."""

from statistics import median

import pytest

from art_sensreg.benchmark.defences import TrainingSpec
from art_sensreg.benchmark.studies.experiments import costs
from tests.benchmark.studies.experiments.small import laboratory


def test_drift_of_the_machine_is_divided_out(tmp_path, monkeypatch):
    now, speed = [0.0], [1.0]

    def plain(self):
        speed[0] *= 2  # the machine slows down all the time
        return speed[0]

    def train(self, spec, options):
        now[0] += 3 * spec.steps * 1.5 * speed[0]  # three plain steps at the speed in the middle

    monkeypatch.setattr(TrainingSpec, "plain_step_seconds", plain)
    monkeypatch.setattr(costs.time, "perf_counter", lambda: now[0])
    lab = laboratory(tmp_path)
    monkeypatch.setattr(type(costs.DEFENCES["sr+jr"]), "train", train)
    cost = costs.measure_cost(lab.cell(lab.rows[1], 0).suite, "sr+jr", rounds=3)
    assert cost.ratios == pytest.approx((3.0, 3.0, 3.0))
    assert cost.step_cost == median(cost.ratios)
    assert cost.steps == 13  # of one epoch
    assert len(cost.plain_seconds) == 4
