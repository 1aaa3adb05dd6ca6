"""The programs in a shell: closed pipes, Ctrl-C, full disks, folders that cannot be written, misspelt names."""

from __future__ import annotations

import errno
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from art_sensreg.benchmark.cli import audit as audit_cli
from art_sensreg.benchmark.cli import console
from art_sensreg.benchmark.cli import step_cost as step_cost_cli
from art_sensreg.benchmark.cli import suite as cli
from art_sensreg.benchmark.cli.console import INTERRUPTED, run_program
from tests.benchmark.runs import raising
from tests.paths import ROOT

SCRIPTS = ROOT / "benchmarks"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
SMALL = ["--model", "mlp", "--train-size", "60", "--test-size", "12", "--epochs", "1", "--attacks", "fgm", "--quiet"]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), INTERRUPTED, "interrupted; what was written is kept"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            1,
            "error: No space left on device; what was written is kept",
        ),
        (OSError(errno.EACCES, "Permission denied", "x"), 1, "error: x: Permission denied; what was written is kept"),
        (MemoryError(), 1, "error: MemoryError: "),
        (RuntimeError("one\ntwo"), 1, "error: RuntimeError: one two"),
        (BrokenPipeError(), 0, None),
    ],
)
def test_what_a_program_raises_is_one_line(capsys, monkeypatch, error, code, line):
    monkeypatch.setattr(console, "_drop_output", lambda: None)
    assert run_program(raising(error)) == code
    assert capsys.readouterr().err.splitlines() == ([] if line is None else [line])


def test_the_exit_code_of_a_program_is_kept():
    assert run_program(lambda: 1) == 1
    assert run_program(lambda: None) == 0
    with pytest.raises(SystemExit, match="2"):
        run_program(raising(SystemExit(2)))


def test_nobody_reads_the_end():
    command = f"{sys.executable} {SCRIPTS / 'run_art_suite.py'} --list | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_under_the_output():
    with open("/dev/full", "w") as full:
        command = [sys.executable, str(SCRIPTS / "run_art_suite.py"), "--list"]
        done = subprocess.run(command, env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr == "error: No space left on device; what was written is kept\n"


def test_a_disk_that_fills_up_in_a_run(tmp_path, monkeypatch, capsys):
    from art_sensreg.benchmark.results import store as records

    calls = []
    original = records.write_text

    def fills(path, text):
        calls.append(path)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        original(path, text)

    monkeypatch.setattr(records, "write_text", fills)
    code = run_program(lambda: cli.main([*SMALL, "--defences", "none,sr", "--out", str(tmp_path / "run")]))
    assert code == 1
    shown = capsys.readouterr().err
    assert re.fullmatch(r"error: \S+results\.(json|csv): No space left on device; what was written is kept\n", shown)


@pytest.mark.usefixtures("interruptible")  # so that the process that it starts is
def test_ctrl_c_in_a_run(tmp_path):
    """With workers: all of the group get the signal, and one line comes out."""
    words = [*SMALL, "--epochs", "200", "--train-size", "1300", "--seeds", "3", "--defences", "none,jr", "--jobs", "2"]
    command = [sys.executable, str(SCRIPTS / "run_art_suite.py"), *words, "--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.time() + 100
    while not (tmp_path / "run" / "checkpoints").exists() and time.time() < deadline and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    assert shown == "interrupted; what was written is kept\n"


def script(name: str, *words: str):
    """The main function of a program, with its command line."""
    sys.argv = [name, *words]
    return runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="script")["main"]


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (cli.main, ["--defences", "none"]),
        (audit_cli.main, ["--defence", "sr"]),
        (step_cost_cli.main, []),
        ("graddiv", []),
        ("scaling", []),
        ("choose_settings", ["--dataset", "digits"]),
    ],
)
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, capsys, main, words):
    (tmp_path / "file").write_text("")
    words = [*words, "--out", str(tmp_path / "file" / "run")]
    monkeypatch.setattr(sys, "argv", sys.argv)
    with pytest.raises(SystemExit) as stop:
        script(main, *words)() if isinstance(main, str) else main(words)
    assert stop.value.code == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert "--out" in shown


@pytest.mark.parametrize(
    ("main", "words", "meant"),
    [
        (cli.main, ["--defences", "none,art-mardy"], "art-madry"),
        (cli.main, ["--defences", "SR+JR"], "sr+jr"),
        (cli.main, ["--attacks", "apdg-ce"], "apgd-ce"),
        (cli.main, ["--model", "cnn-smal"], "cnn-small"),
        (cli.main, ["--budget", "quik"], "quick"),
        (cli.main, ["--activation", "rel"], "relu"),
        (cli.main, ["--norm-layer", "batchs"], "batch"),
        (cli.main, ["--norm", "l-inf"], "linf"),
        (cli.main, ["--dataset", "cifar-10"], "cifar10"),
        (cli.main, ["--set", "srjr.sigma=1"], "sr+jr"),
        (cli.main, ["--set", "sr.sgima=1"], "sigma"),
        (cli.main, ["--set", "sr.noise=gausian"], "gaussian"),
        (cli.main, ["--device", "cud"], "cuda"),
        (cli.main, ["--defenses", "none"], "--defences"),
        (cli.main, ["--atacks=fgm"], "--attacks"),
        (audit_cli.main, ["--defence", "art-mardy"], "art-madry"),
        (audit_cli.main, ["--defence", "sr", "--checks", "eval_mod"], "eval_mode"),
        (audit_cli.main, ["--defence", "sr", "--model", "mpl"], "mlp"),
        (audit_cli.main, ["--defence", "sr", "--dataset", "mnits"], "mnist"),
        (step_cost_cli.main, ["--variants", "sr-jr"], "sr+jr"),
        ("choose_settings", ["--dataset", "digits", "--of", "fyre"], "fire"),
        ("adaptive", ["x", "art-mardy"], "art-madry"),
    ],
)
def test_a_misspelt_name_gets_the_nearest(tmp_path, monkeypatch, capsys, main, words, meant):
    monkeypatch.setattr(sys, "argv", sys.argv)
    with pytest.raises(SystemExit) as stop:
        script(main, *words)() if isinstance(main, str) else main([*words, "--out", str(tmp_path / "run")])
    assert stop.value.code == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert meant in shown.lower().split("did you mean")[1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--eps", "1e308"], "`--eps` is 1e+308; expected at most 1, the largest linf distance"),
        (["--eps", "8"], r"[0, 1]: 8/255?"),
        (["--eps", "1e999"], "'1e999' is not a number above 0"),
        (["--eps", "nan"], "'nan' is not a number above 0"),
        (["--eps", "8/0"], "is not a number above 0"),
        (["--eps", "8/255", "--norm", "linf,l2"], r"`--eps` is 8; expected at most 1"),
        (["--eps", "9", "--norm", "l2"], "`--eps` is 9; expected at most 8, the largest l2 distance"),
        (["--eps", "65", "--norm", "l1"], "expected at most 64, the largest l1 distance"),
        (["--eps", "1/2/3", "--norm", "linf,l2"], "can be read in several ways; separate the groups by ;"),
        (["--eps", "/".join(["1"] * 40), "--norm", "linf,l2"], "has too many groups of sizes"),
        (["--set", "at+sr+jr.eps=8"], "`--set at+sr+jr.eps` is 8; expected at most 1"),
        (["--set", "at+sr+jr.eps=1e308"], "`--set at+sr+jr.eps` is 1e+308"),
        (["--set", "at+sr+jr.eps=8/0"], "is not a number above 0"),
        (["--learning-rate", "1e999"], "is not a number above 0"),
        (["--seeds", "9" * 30], "is too large; expected 1000000000 at most"),
        (["--epochs", "²"], "is not a whole number of at least 1"),
        (["--dataset", "\x00.npz"], "`dataset`"),
        (["--set", f"sr.sigma={'(' * 5000}"], "`sigma`"),
    ],
)
def test_sizes_that_mean_nothing_are_refused(tmp_path, capsys, words, message):
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, "--out", str(tmp_path / "run")])
    assert stop.value.code == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_size_of_an_audit_is_checked_before_anything_is_trained(tmp_path, capsys):
    words = ["--defence", "sr", "--eps", "8", "--epochs", "1", "--model", "mlp"]
    with pytest.raises(SystemExit) as stop:
        audit_cli.main([*words, "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert capsys.readouterr().err.endswith("[0, 1]: 8/255?\n")
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_fractions_on_the_command_line(tmp_path):
    words = ["--norm", "linf,l2", "--eps", "8/255,16/255/128/255", "--set", "sr.sigma=51/255", "--defences", "sr"]
    assert cli.main([*SMALL, *words, "--out", str(tmp_path / "run")]) == 0
    config = json.loads((tmp_path / "run" / "results.json").read_text())["config"]
    assert config["eps"] == {"linf": [8 / 255, 16 / 255], "l2": [128 / 255]}
    assert config["options"] == {"sr": {"sigma": 0.2}}
    code = cli.main([*SMALL, *words[:2], "--eps", "8/255,16/255;128/255", *words[4:], "--resume", "--out",
                     str(tmp_path / "run")])  # fmt: skip
    assert code == 0
