"""docs/extending.md: its examples, run as a user runs them."""

import json
import re
import subprocess
import sys

import pytest
from art.defences.trainer import AdversarialTrainerFBFPyTorch

from art_sensreg.benchmark.cli.suite import main
from art_sensreg.benchmark.defences.factories import from_trainer
from art_sensreg.benchmark.defences.registry import DEFENCES, register
from art_sensreg.benchmark.defences.spec import Defence
from tests.paths import ROOT

SMALL = ["--train-size", "300", "--test-size", "40", "--epochs", "3", "--model", "mlp", "--attacks", "fgm", "--quiet"]


def files_of_the_page():
    """The Python blocks of the page, by the name in their first line."""
    page = (ROOT / "docs" / "extending.md").read_text()
    blocks = re.findall(r"```python\n# (\S+\.py)\n(.*?)```", page, re.DOTALL)
    return dict(blocks)


@pytest.fixture
def registry():
    """The registry as it was, afterwards."""
    before = dict(DEFENCES)
    yield DEFENCES
    DEFENCES.clear()
    DEFENCES.update(before)


def test_the_page_has_both_examples():
    assert list(files_of_the_page()) == ["my_defence.py", "my_trainer.py"]


@pytest.mark.parametrize(("file", "name"), [("my_defence.py", "double-backprop"), ("my_trainer.py", "half")])
def test_an_example_of_the_page_is_trained_and_attacked(tmp_path, file, name, capsys, registry):
    plugin = tmp_path / file
    plugin.write_text(files_of_the_page()[file])
    out = tmp_path / "run"
    arguments = ["--plugin", str(plugin), "--defences", f"none,{name}", "--out", str(out), *SMALL]
    assert main(arguments) == 0
    runs = {run["defence"]: run for run in json.loads((out / "results.json").read_text())["runs"]}
    assert runs[name]["status"] == "ok"
    assert runs[name]["clean_accuracy"] > 0.3
    assert runs[name]["claim"]["metric"] == "robust_accuracy"
    assert len(runs[name]["attacks"]) == 2
    assert name in capsys.readouterr().out


def test_the_command_of_the_page_in_a_new_process(tmp_path):
    (tmp_path / "my_defence.py").write_text(files_of_the_page()["my_defence.py"])
    command = [sys.executable, str(ROOT / "benchmarks" / "run_art_suite.py"), "--plugin", "my_defence.py", "--list"]
    shown = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert "double-backprop" in shown
    assert "Drucker and LeCun 1992" in shown
    words = ["--defences", "none,double-backprop", "--set", "double-backprop.weight=0.1", "--out", "run", *SMALL]
    subprocess.run([*command[:-1], *words], cwd=tmp_path, check=True, capture_output=True)
    config = json.loads((tmp_path / "run" / "results.json").read_text())["config"]
    assert config["options"] == {"double-backprop": {"weight": 0.1}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no file"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        (
            "from art_sensreg.benchmark.defences.registry import *\nregister(DEFENCES['sr'])",
            "`name` is 'sr', which is taken",
        ),
    ],
)
def test_a_plugin_that_does_not_work_is_one_line(tmp_path, text, message, capsys):
    plugin = tmp_path / "plugin.py"
    if text is not None:
        plugin.write_text(text)
    with pytest.raises(SystemExit) as stop:
        main(["--plugin", str(plugin), "--list"])
    assert stop.value.code == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize("name", ["", "a,b", "a b", "all", "a/b", "a.b", "a=b"])
def test_names_that_cannot_stand_on_a_command_line(name, registry):
    with pytest.raises(ValueError, match="expected a word"):
        register(Defence(name, "", ""))


def test_trainers_of_art_that_take_no_indices_are_rows_too(tmp_path, registry):
    register(
        from_trainer("fbf", "FBF", "-", lambda model, task, options: AdversarialTrainerFBFPyTorch(model, task.eps))
    )
    assert main(["--defences", "none,fbf", "--out", str(tmp_path / "run"), *SMALL]) == 0
    runs = json.loads((tmp_path / "run" / "results.json").read_text())["runs"]
    assert [run["status"] for run in runs] == ["ok", "ok"]
