"""Speed-up by processes: the table and the files of timed runs."""

import json

from art_sensreg.benchmark.studies.scaling import ScalingStudy, scaling_table, train_and_time, write_scaling

SECONDS = {128: {1: [0.010, 0.012, 0.011], 2: [0.006, 0.005, 0.0055]}}


def test_the_speed_up_is_that_of_the_median_runs(tmp_path):
    assert scaling_table(SECONDS).rows == [
        ["128", "1", "11.0", "10.0 to 12.0", "1.00"],
        ["128", "2", "5.5", "5.0 to 6.0", "2.00"],
    ]
    write_scaling(ScalingStudy(), SECONDS, tmp_path, "python benchmarks/scaling.py")
    assert json.loads((tmp_path / "scaling.json").read_text())["seconds"] == {"128": {"1": 0.011, "2": 0.0055}}
    assert "| 128 | 2 | 5.5 |" in (tmp_path / "scaling.md").read_text()
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_the_first_five_steps_are_not_timed():
    assert len(train_and_time(batch_size=2, steps=8, device="cpu")) == 3
