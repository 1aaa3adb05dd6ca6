"""The smaller programs of benchmarks/, on the output of a tiny run of the suite."""

import json
import runpy
import sys

import numpy as np
import pytest

from art_sensreg.benchmark.cli.suite import main
from art_sensreg.benchmark.studies.choose_settings import GRIDS
from tests.paths import ROOT

SCRIPTS = ROOT / "benchmarks"
SMALL = ["--train-size", "300", "--test-size", "30", "--epochs", "2", "--model", "mlp"]


def script(name):
    return runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="script")


def call(monkeypatch, name, *words):
    monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
    return script(name)["main"]()


def wrong(monkeypatch, capsys, name, *words):
    with pytest.raises(SystemExit) as stopped:
        call(monkeypatch, name, *words)
    assert stopped.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("scripts") / "run"
    words = ["--defences", "none,sr", "--attacks", "fgm,pgd", "--seeds", "2", "--quiet", "--out", str(out)]
    assert main([*SMALL, *words]) == 0
    return out


def test_two_defences_are_compared_image_by_image(finished, monkeypatch, capsys):
    call(monkeypatch, "compare_defences", finished, "none", "sr")
    page = (finished / "comparison.md").read_text()
    runs = json.loads((finished / "results.json").read_text())["runs"]
    for row, eps in enumerate((0.1, 0.2)):
        shares = [
            100 * np.mean([case["robust_accuracy"] for run in runs if run["defence"] == name
                           for case in run["worst_case"] if case["eps"] == eps])
            for name in ("none", "sr")
        ]  # fmt: skip
        line = next(line for line in page.splitlines() if line.startswith(f"| {eps:g} "))
        assert line.split("|")[2:4] == [f" {share:.2f} " for share in shares], row
        assert line.split("|")[4].startswith(f" {shares[1] - shares[0]:+.2f} [")
    assert "no seed has both" in wrong(monkeypatch, capsys, "compare_defences", finished, "none", "magic")
    assert "no `results.json`" in wrong(monkeypatch, capsys, "compare_defences", finished / "x", "none", "sr")


def test_settings_are_chosen_on_held_out_training_images(tmp_path, monkeypatch, capsys):
    words = ["--grid", "--dataset", "digits", "--of", "jr", "--attacks", "fgm", *SMALL, "--epochs", "1"]
    words += ["--out", tmp_path]
    call(monkeypatch, "choose_settings", *words)
    page = (tmp_path / "validation.md").read_text()
    grid = GRIDS["jr"]
    for number, options in enumerate(grid):
        config = json.loads((tmp_path / f"jr-{number}" / "results.json").read_text())["config"]
        assert config["validation"]
        assert config["options"]["jr"] == options
        assert f"\n| {options['jr_weight']} |" in page
    assert "Chosen: `jr_weight` " in page
    assert "magic" in wrong(monkeypatch, capsys, "choose_settings", "--dataset", "digits", "--of", "magic")
    for option in ("--set=jr.jr_weight=1", "--seeds=2", "--attacks=pgd"):
        said = wrong(monkeypatch, capsys, "choose_settings", "--dataset", "digits", "--of", "jr", option)
        assert f"`{option.partition('=')[0]}` was given; expected none with a search" in said


def test_settings_are_searched_by_halving(tmp_path, monkeypatch, capsys):
    words = ["--dataset", "digits", "--of", "jr", "--trials", "2", "--rounds", "2", "--points", "10", *SMALL]
    assert call(monkeypatch, "choose_settings", *words, "--budget", "smoke", "--out", tmp_path) == 0
    stored = json.loads((tmp_path / "trials.json").read_text())
    assert [(trial["number"], trial["round"], trial["epochs"]) for trial in stored["trials"]] == [
        (0, 0, 1), (1, 0, 1), (stored["trials"][2]["number"], 1, 2),
    ]  # fmt: skip
    assert stored["protocol"]["trials"] == 2
    assert "Chosen: " in (tmp_path / "chosen.md").read_text()
    other = wrong(monkeypatch, capsys, "choose_settings", *words, "--eps", "0.3", "--out", tmp_path)
    assert "has trials of another search: `eps` was None and is now [[0.3]]" in other
    momentum = wrong(monkeypatch, capsys, "choose_settings", *words, "--momentum", "0.9", "--out", tmp_path)
    assert "error: `momentum` is 0.9 and `optimizer` is None" in momentum
    assert call(monkeypatch, "choose_settings", *words, "--budget", "smoke", "--out", tmp_path) == 0
    assert json.loads((tmp_path / "trials.json").read_text()) == stored


def test_what_has_no_run_or_no_weights_is_one_line(finished, monkeypatch, capsys):
    assert "no `results.json`" in wrong(monkeypatch, capsys, "adaptive", finished / "x", "sr")
    assert "does not hold the weights" in wrong(monkeypatch, capsys, "adaptive", finished, "jr")


@pytest.mark.slow
def test_one_model_is_attacked_by_all(finished, monkeypatch):
    call(monkeypatch, "adaptive", finished, "sr", "--eps", "0.1", "--audit-eps", "0.1", "--test-size", "10")
    page = (finished / "adaptive.md").read_text()
    stored = json.loads((finished / "adaptive-0.1.json").read_text())
    assert len(stored) == 9
    for name, found in stored.items():
        assert len(found["robust"]) == 10
        assert f"| {name}" in page
    assert "## Audit at 0.1" in page
