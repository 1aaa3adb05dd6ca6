"""A network and data of the user's own, in `bench` and `audit`."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from art_sensreg.benchmark.cli import audit, suite
from art_sensreg.datasets import load_dataset
from tests.benchmark.runs import results

NET = """
from torch import nn

def build(nb_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, nb_classes))
"""
DATA = """
from art_sensreg.datasets import load_dataset

def load():
    data = load_dataset("digits")
    return (data.x_train[:200], data.y_train[:200]), (data.x_test[:60], data.y_test[:60])
"""
FEW = ["--epochs", "1", "--attacks", "fgm", "--eps", "8/255", "--quiet"]


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_net.py").write_text(NET)
    (tmp_path / "my_data.py").write_text(DATA)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    data, optimizer = load_dataset("digits"), torch.optim.Adam(network.parameters(), lr=1e-2)
    x, y = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    torch.save({"state_dict": network.state_dict()}, tmp_path / "my_net.pt")
    return ["--model", "my_net.py:build", "--data", "my_data.py:load"]


def wrong(program, capsys, words):
    with pytest.raises(SystemExit) as stopped:
        program.main([*words, "--quiet"])
    assert stopped.value.code == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    return shown


def test_all_kinds_of_defences_take_it_and_its_weights(mine, tmp_path):
    names = "none,sr+jr,rse,art-fbf-fixed"
    words = [*mine, "--weights", "my_net.pt", "--defences", names, *FEW, "--out", "run"]
    assert suite.main(words) == 0
    found = results("run")
    assert found["config"]["model"] == "my_net.py:build"
    assert found["config"]["weights"] == "my_net.pt"
    assert found["config"]["test_size"] == 60
    assert [run["status"] for run in found["runs"]] == ["ok"] * 4
    # Trained for four steps from random weights it would hardly be better than guessing.
    assert found["runs"][0]["clean_accuracy"] > 0.7
    assert "my_net.py:build" in (tmp_path / "run" / "report.md").read_text()
    before = (tmp_path / "run" / "checkpoints" / "none-seed0.safetensors").stat().st_mtime_ns
    assert suite.main([*words, "--resume"]) == 0
    assert (tmp_path / "run" / "checkpoints" / "none-seed0.safetensors").stat().st_mtime_ns == before


def test_a_run_is_not_resumed_with_another_network(mine, tmp_path, capsys):
    words = [*mine, "--defences", "none", *FEW, "--out", "run"]
    assert suite.main(words) == 0
    (tmp_path / "my_net.py").write_text(NET.replace("ReLU", "GELU"))
    assert "`network_crc32` was" in wrong(suite, capsys, [*words, "--resume"])


@pytest.mark.parametrize("weights", [[], ["--weights", "my_net.pt"]])
def test_it_is_audited_as_it_is_built_or_with_its_weights(mine, tmp_path, weights):
    words = ["--eps", "8/255", "--points", "60", "--quick", "--checks", "clean_accuracy,eval_mode", "--quiet"]
    assert audit.main([*mine, *weights, *words]) == 0
    (out,) = (tmp_path / "results").iterdir()
    assert out.name == ("audit-my_net" if weights else "audit-my_net.py-build")
    report = json.loads((out / "audit.json").read_text())
    assert report["settings"]["eps"] == 8 / 255
    statuses = {check["name"]: check["status"] for check in report["checks"]}
    assert statuses == {"eval_mode": "PASS", "clean_accuracy": "PASS" if weights else "FAIL"}


def test_a_defence_is_trained_on_it_before_the_audit(mine, tmp_path):
    words = ["--defence", "sr", "--epochs", "1", "--quick", "--points", "40", "--checks", "eval_mode,twin_falls"]
    assert audit.main([*mine, *words, "--quiet", "--out", "out"]) == 0
    assert (tmp_path / "out" / "checkpoints" / "sr-seed0.safetensors").exists()


def test_a_checkpoint_of_a_run_of_it_is_audited_with_that_run(mine, tmp_path):
    assert suite.main([*mine, "--defences", "none,sr", *FEW, "--out", "run"]) == 0
    words = ["--checkpoint", "run/checkpoints/sr-seed0.safetensors", "--quick", "--checks", "transfer_from_twin"]
    assert audit.main([*words, "--quiet", "--out", "out"]) == 0
    (check,) = json.loads((tmp_path / "out" / "audit.json").read_text())["checks"]
    assert check["status"] != "SKIP"


@pytest.mark.parametrize(
    ("program", "words", "message"),
    [
        (suite, ["--model", "my_net.py:biuld"], "`--model`: my_net.py has no 'biuld'. Did you mean 'build'?"),
        (suite, ["--model", "my_net.py"], "argument --model: 'my_net.py' names no function of the file"),
        (suite, ["--model", "my_net.py:build", "--activation", "gelu"], "`--activation` is 'gelu', which my_net"),
        (suite, ["--model", "my_net.py:build", "--weights", "my_data.py"], "`--weights`: my_data.py holds no weights"),
        (suite, ["--model", "my_net.py:build", "--data", "my_data.py:lod"], "`dataset`: my_data.py has no 'lod'"),
        (audit, ["--model", "my_net.py:build", "--weights", "no.pt"], "`--checkpoint`: there is no file no.pt"),
        (audit, ["--model", "my_net.py:biuld"], "`--model`: my_net.py has no 'biuld'"),
        (audit, ["--model", "mlp"], "one of the arguments --checkpoint, --weights, --defence or --list is required"),
        (audit, ["--model", "my_net.py:build", "--eps", "8"], "[0, 1]: 8/255?"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(mine, capsys, program, words, message):
    assert message in wrong(program, capsys, words)
