"""`art-sensreg`: its subcommands, their help, and errors of one line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from art_sensreg import __version__
from art_sensreg.benchmark.cli import command
from art_sensreg.benchmark.cli.command import main
from tests.benchmark.runs import SMALL, results
from tests.paths import ROOT

NAMES = tuple(command._COMMANDS)


def shown_by(capsys, *words):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    return stopped.value.code, capsys.readouterr()


def test_without_a_subcommand_all_are_shown_with_examples(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in NAMES)
    assert shown.count("\n  art-sensreg ") >= 3


@pytest.mark.parametrize("name", NAMES)
def test_help_of_each_has_examples_that_parse(capsys, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "100")
    code, shown = shown_by(capsys, name, "--help")
    assert code == 0
    assert shown.out.startswith(f"usage: art-sensreg {name}")
    assert f"\nexamples:\n  art-sensreg {name}" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 100


@pytest.mark.parametrize("name", ["bench", "audit", "step-cost"])
def test_help_is_in_groups(capsys, name):
    shown = shown_by(capsys, name, "--help")[1].out
    assert sum(line.endswith(":") and not line.startswith(" ") for line in shown.splitlines()) >= 4
    assert "\nthe run and its results:\n" in shown


def test_a_misspelt_subcommand_gets_the_nearest(capsys):
    code, shown = shown_by(capsys, "bnech")
    assert code == 2
    assert shown.err.count("\n") == 1
    assert "Did you mean 'bench'?" in shown.err


@pytest.mark.parametrize("words", [("bench", "--budget", "huge"), ("audit", "--defence", "magic"), ("list", "magic")])
def test_errors_are_one_line_and_name_the_program(capsys, words):
    code, shown = shown_by(capsys, *words)
    assert code == 2
    assert shown.err.count("\n") == 1
    assert shown.err.startswith(f"art-sensreg {words[0]}: error: ")


def test_the_version(capsys):
    assert shown_by(capsys, "--version")[1].out.strip() == f"art-sensreg {__version__}"


def test_the_report_shows_the_command_that_was_run(tmp_path):
    words = ["--defences", "none", "--attacks", "fgm", "--out", str(tmp_path)]
    assert main(["bench", *SMALL, *words]) == 0
    assert results(tmp_path)["runs"][0]["status"] == "ok"
    assert "art-sensreg bench --train-size 300" in (tmp_path / "report.md").read_text()


def test_the_module_and_the_scripts_are_doors_to_the_same():
    command = [sys.executable, "-m", "art_sensreg", "list", "none"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert shown.startswith("none (defence)")
    for name in ("run_art_suite", "audit", "step_cost"):
        assert len((ROOT / "benchmarks" / f"{name}.py").read_text().splitlines()) <= 12
