"""The command line of the suite: what it prints, its exit codes, and packages that are missing."""

import pytest

from art_sensreg.benchmark.cli.suite import main
from art_sensreg.benchmark.engine import plan
from tests.benchmark.runs import raising, replaced, results, run


def test_the_table_the_paths_and_the_command(tmp_path, capsys):
    plugin = tmp_path / "plugin.py"
    plugin.write_text("print('plugin loaded')\n")
    out = tmp_path / "run"
    assert run(out, "--defences", "none", "--attacks", "fgm", "--plugin", str(plugin)) == 0
    shown = capsys.readouterr().out
    assert "plugin loaded" in shown
    assert "worst case %" in shown
    for name in ("results.json", "results.csv", "robustness.png", "report.md", "report.html"):
        assert f"  {out / name}\n" in shown
        assert (out / name).exists()
    assert f"--plugin {plugin}" in (out / "report.md").read_text()
    assert results(out)["runs"][0]["status"] == "ok"


def test_a_run_that_failed_is_exit_code_1(tmp_path, monkeypatch):
    replaced(monkeypatch, "sr", penalties=raising(RuntimeError("no penalties")))
    assert run(tmp_path / "run", "--defences", "none,sr", "--attacks", "fgm") == 1


def test_a_missing_package_is_named_before_anything_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plan, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stopped:
        main(["--interpret", "--out", str(tmp_path / "run")])
    assert stopped.value.code == 2
    assert "`--interpret` needs captum: pip install 'art_sensreg[bench]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
