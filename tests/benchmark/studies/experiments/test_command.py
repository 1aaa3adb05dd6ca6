"""The command line of the experiments."""

import pytest

from art_sensreg.benchmark.studies.experiments import EXPERIMENTS
from art_sensreg.benchmark.studies.experiments.command import run_command
from tests.benchmark.studies.small_experiment import SMALL


def call(*words, prefix=""):
    return run_command([*map(str, words)], "experiment.py", "What it does.", prefix)


def test_a_part_of_an_experiment_is_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(EXPERIMENTS, "small", SMALL)
    assert call("small", "--out", tmp_path, "--only", "none", "--seeds", "0", "--kinds", "train,noise") == 0
    said = capsys.readouterr().out
    assert "none seed 0: train: clean" in said
    assert said.splitlines()[-3:] == ["done", str(tmp_path / "results.json"), str(tmp_path / "report.md")]


def test_wrong_words_are_one_line(tmp_path, capsys):
    for words, reason in (
        (["mnist", "--tiny"], "`--tiny` needs `--out`"),
        (["nine"], "invalid choice: 'nine'"),
        (["digits", "--sizes", "0.3"], "'0.3' is not a norm and a size"),
        (["digits", "--sizes", "linf:x"], "--sizes"),
        (["digits", "--points", "0"], "--points: '0' is not a whole number of at least 1"),
        (["digits", "--seeds", "0,x"], "'0,x' is not a list of seeds"),
        (["digits", "--out", tmp_path, "--tiny", "--only", "nine"], "`--only` is 'nine'"),
    ):
        with pytest.raises(SystemExit) as stopped:
            call(*words)
        assert stopped.value.code == 2
        assert reason in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(SystemExit):
        call("equal-cost-mnist", prefix="equal-cost-")
