"""docs/extending.md: its files, run as a user runs them."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from art_sensreg import audit
from art_sensreg.auditing import CHECKS
from art_sensreg.benchmark.attacks import ATTACKS
from art_sensreg.benchmark.cli.suite import main
from art_sensreg.benchmark.defences import DEFENCES
from tests.paths import ROOT

SMALL = ["--train-size", "300", "--test-size", "40", "--epochs", "3", "--model", "mlp", "--attacks", "fgm", "--quiet"]


def files_of_the_page():
    """The Python blocks of the page, by the name in their first line."""
    page = (ROOT / "docs" / "extending.md").read_text()
    blocks = re.findall(r"```python\n# (\S+\.py)\n(.*?)```", page, re.DOTALL)
    return dict(blocks)


@pytest.fixture
def plugin(tmp_path):
    """Writes a file of the page; afterwards the registries are as they were."""
    before = [(registry, dict(registry)) for registry in (DEFENCES, ATTACKS, CHECKS)]

    def write(name):
        (tmp_path / name).write_text(files_of_the_page()[name])
        return ["--plugin", str(tmp_path / name), "--out", str(tmp_path / "run")]

    yield write
    for registry, entries in before:
        registry.clear()
        registry.update(entries)


def runs_in(folder):
    return {run["defence"]: run for run in json.loads((folder / "run" / "results.json").read_text())["runs"]}


def test_the_page_has_an_example_of_each():
    assert list(files_of_the_page()) == ["my_defence.py", "my_trainer.py", "my_attack.py", "my_check.py"]


@pytest.mark.parametrize(("file", "name"), [("my_defence.py", "double-backprop"), ("my_trainer.py", "half")])
def test_a_defence_of_the_page_is_trained_and_attacked(tmp_path, plugin, file, name, capsys):
    assert main([*plugin(file), "--defences", f"none,{name}", *SMALL]) == 0
    run = runs_in(tmp_path)[name]
    assert run["status"] == "ok"
    assert run["clean_accuracy"] > 0.3
    assert run["claim"]["metric"] == "robust_accuracy"
    assert len(run["attacks"]) == 2
    assert name in capsys.readouterr().out


def test_the_attack_of_the_page_runs_where_it_is_put(tmp_path, plugin):
    words = [
        *plugin("my_attack.py"),
        "--defences",
        "none",
        "--eps",
        "0.2",
        *SMALL,
        "--attacks",
        "square,random-corners",
    ]
    assert main(words) == 0
    attacks = runs_in(tmp_path)["none"]["attacks"]
    assert [row["attack"] for row in attacks] == ["random-corners", "square"]
    assert attacks[0]["status"] == "ok"
    assert attacks[0]["robust_accuracy"] < runs_in(tmp_path)["none"]["clean_accuracy"]


def test_the_check_of_the_page_is_run_by_every_audit(plugin, make_classifier, digits):
    assert main([*plugin("my_check.py"), "--list"]) == 0
    assert list(CHECKS)[-1] == "every_class_predicted"
    classifier, x, y = make_classifier(), digits.x_test[:60], digits.y_test[:60]
    (check,) = audit(classifier, x, y, eps=0.1, checks=["every_class_predicted"]).checks
    classes = len(np.unique(classifier.predict(x).argmax(axis=1)))
    assert check.value == pytest.approx(1 - classes / 10)
    assert check.status == ("PASS" if classes >= 5 else "FAIL")


def test_an_option_of_the_page_is_set_and_stored(tmp_path, plugin):
    words = ["--defences", "none,double-backprop", "--set", "double-backprop.weight=0.1"]
    assert main([*plugin("my_defence.py"), *words, *SMALL]) == 0
    config = json.loads((tmp_path / "run" / "results.json").read_text())["config"]
    assert config["options"] == {"double-backprop": {"weight": 0.1}}


def test_the_command_of_the_page_in_a_new_process(tmp_path):
    (tmp_path / "my_defence.py").write_text(files_of_the_page()["my_defence.py"])
    command = [sys.executable, str(ROOT / "benchmarks" / "run_art_suite.py"), "--plugin", "my_defence.py", "--list"]
    shown = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert "double-backprop" in shown
    assert "Drucker and LeCun 1992" in shown
