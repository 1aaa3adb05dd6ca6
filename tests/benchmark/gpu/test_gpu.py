"""`benchmarks/gpu.py`: what fails is recorded and ends nothing; a page says what device it is of."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from art_sensreg.benchmark.gpu import run as gpu_run
from art_sensreg.benchmark.gpu.report import page, write_gpu
from art_sensreg.benchmark.gpu.run import MARK, run_all
from art_sensreg.benchmark.gpu.stages import STAGES
from tests.paths import ROOT

PROGRAM = f"""
import json, sys, time
from tests.paths import ROOT
name = sys.argv[-1]
if name == "waits":
    raise RuntimeError("no such kernel")
if name == "agreement":
    time.sleep(60)
print("warming up")
if name != "resume":
    print({MARK!r} + json.dumps([{{"what": name, "waits": 1}}]))
"""
TESTS = "print('PASSED tests/a.py::b'); print('FAILED tests/a.py::c - no'); raise SystemExit(1)"


def stages(monkeypatch, seconds=60.0):
    limits = {name: (function, 1 if name == "agreement" else 20) for name, (function, _) in STAGES.items()}
    monkeypatch.setattr(gpu_run, "STAGES", limits)
    return run_all([sys.executable, "-c", PROGRAM], [sys.executable, "-c", TESTS], seconds, lambda text: None)


def test_a_failing_stage_ends_nothing(monkeypatch):
    found = {stage["stage"]: stage for stage in stages(monkeypatch)}
    assert {name: stage["status"] for name, stage in found.items()} == {
        "tests": "failed", "waits": "failed", "agreement": "timeout", "resume": "failed", "precision": "ok",
        "step_cost": "ok",
    }  # fmt: skip
    assert found["waits"]["reason"] == "RuntimeError: no such kernel"
    assert found["precision"]["records"] == [{"what": "precision", "waits": 1}]
    assert found["tests"]["records"][1] == {"test": "tests/a.py::c", "outcome": "failed"}


def test_what_does_not_fit_the_time_is_left_out(monkeypatch):
    assert {stage["status"] for stage in stages(monkeypatch, seconds=1.0)} == {"left out"}


def test_all_stages_fit_nine_minutes():
    assert gpu_run.TESTS_SECONDS + sum(limit for _, limit in STAGES.values()) <= 540


@pytest.mark.parametrize("emulated", [True, False])
def test_the_page(monkeypatch, tmp_path, emulated):
    data = {
        "schema": 1, "emulated": emulated, "command": "python benchmarks/gpu.py", "seconds": 1.0,
        "environment": {"device": "a device", "torch": "2"}, "stages": stages(monkeypatch),
    }  # fmt: skip
    paths = write_gpu(data, tmp_path / "out")
    assert json.loads(paths[0].read_text()) == data
    text = paths[1].read_text()
    assert text.startswith("# On a GPU\n") != emulated
    assert ("No GPU was at hand" in text) == emulated
    assert "**timeout**: not done after 1 seconds" in text
    assert "1 passed, 1 failed." in text
    assert "| precision | 1 |" in text


def test_the_stored_page_is_that_of_the_stored_numbers():
    folder = ROOT / "docs" / "results"
    data = json.loads((folder / "gpu.json").read_text())
    assert (folder / "gpu.md").read_text() == page(data)
    assert {stage["status"] for stage in data["stages"]} == {"ok"}
    assert all(row["waits"] <= 1 for row in data["stages"][1]["records"] if "attack" not in row["what"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu():
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py")]
    where = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=where)
    assert done.returncode == 2
    assert "torch sees no GPU here" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("program", "words", "message"),
    [
        ("gpu.py", ["--seconds", "nan"], "argument --seconds: 'nan' is no number above 0"),
        ("gpu.py", ["--secondss", "3"], "unrecognized arguments: --secondss 3"),
        ("update_readme.py", ["--chek"], "'--chek' came; expected nothing or --check"),
        ("installed_size.py", ["--list"], "unrecognized arguments: --list"),
    ],
)
def test_wrong_arguments_of_the_small_programs(program, words, message):
    """The last two would have written their pages."""
    command = [sys.executable, str(ROOT / "benchmarks" / program), *words]
    where = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=where)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [f"{program}: error: {message}"]
