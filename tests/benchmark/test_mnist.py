"""The main claim on a part of MNIST; `docs/results/mnist-first.md` has the whole."""

import json

import pytest

from art_sensreg.benchmark.cli.suite import main


@pytest.mark.slow
def test_sr_and_jr_hold_where_the_twin_falls(tmp_path, data_dir):
    arguments = ["--dataset", "mnist", "--data-dir", str(data_dir), "--defences", "none,sr+jr", "--budget", "smoke"]
    arguments += ["--attacks", "pgd,apgd-ce,apgd-dlr", "--eps", "0.1,0.2", "--train-size", "20000", "--epochs", "6"]
    assert main([*arguments, "--test-size", "300", "--out", str(tmp_path / "run"), "--quiet"]) == 0
    runs = {run["defence"]: run for run in json.loads((tmp_path / "run" / "results.json").read_text())["runs"]}
    worst = {name: [case["robust_accuracy"] for case in run["worst_case"]] for name, run in runs.items()}
    assert runs["sr+jr"]["clean_accuracy"] > 0.96
    assert worst["none"][0] < 0.5
    assert worst["none"][1] < 0.05
    assert worst["sr+jr"][0] > 0.88
    assert worst["sr+jr"][1] > 0.7
