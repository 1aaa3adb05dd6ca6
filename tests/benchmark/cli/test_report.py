"""`art-sensreg report`, and `--export` of the suite: the same table again, without a model."""

from __future__ import annotations

import json
import shutil

import pytest

from art_sensreg.benchmark.cli import report, suite
from tests.benchmark.runs import SMALL

FORMS = "latex,markdown,csv,robustbench"


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two runs, the first with exports."""
    folder = tmp_path_factory.mktemp("report")
    for name, more in (("none", ["--export", FORMS]), ("sr", [])):
        words = [*SMALL, "--defences", name, "--attacks", "fgm", "--out", str(folder / name), *more]
        assert suite.main(words) == 0
    return folder


def test_a_run_writes_its_table_in_all_forms(two):
    names = {path.name for path in (two / "none").iterdir()}
    assert {"table.tex", "table.md", "table.csv", "robustbench"} <= names
    assert list((two / "none" / "robustbench").glob("*.json"))
    assert not (two / "sr" / "table.tex").exists()


def test_the_report_is_made_again_from_the_results_alone(two, tmp_path, capsys):
    shutil.copytree(two / "none", tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "checkpoints")
    for name in ("report.html", "table.csv"):
        (tmp_path / "copy" / name).unlink()
    assert report.main([str(tmp_path / "copy"), "--export", "csv"]) == 0
    shown = capsys.readouterr().out
    for name in ("report.html", "table.csv"):
        assert (tmp_path / "copy" / name).read_text() == (two / "none" / name).read_text()
        assert f"  {tmp_path / 'copy' / name}\n" in shown
    assert "worst case %" in shown


def test_runs_are_merged(two, tmp_path, capsys):
    folders = [str(two / "none"), str(two / "sr")]
    assert report.main([*folders, "--out", str(tmp_path / "both"), "--export", "markdown"]) == 0
    table = (tmp_path / "both" / "table.md").read_text()
    assert "| none |" in table
    assert "| sr |" in table
    assert (two / "none" / "table.md").read_text() != table


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere"),
        ([], "required: DIR"),
        (["--export", "latx", "DIR"], "latx is unknown; expected all, latex, markdown, csv, robustbench. Did you mean"),
        (["DIR", "OTHER"], "cannot stand in one table with"),
    ],
)
def test_what_is_wrong_is_one_line(two, tmp_path, capsys, words, message):
    data = json.loads((two / "none" / "results.json").read_text())
    data["config"]["weights"] = "mine.pt"
    (tmp_path / "results.json").write_text(json.dumps(data))
    places = {"DIR": str(two / "none"), "OTHER": str(tmp_path)}
    with pytest.raises(SystemExit, match="2"):
        report.main([places.get(word, word) for word in words])
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
