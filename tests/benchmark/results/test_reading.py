"""A run's folder as somebody else left it: one line and exit code 2, nothing overwritten, nothing waited for."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from art_sensreg.benchmark.cli import audit as audit_cli
from art_sensreg.benchmark.cli.suite import main
from art_sensreg.benchmark.config.optimization import OPTIMIZATION_OPTIONS
from art_sensreg.benchmark.results.reading import read_results
from tests.paths import ROOT

WORDS = ["--defences", "none", "--attacks", "fgm", "--model", "mlp", "--train-size", "60", "--test-size", "12",
         "--epochs", "1", "--eps", "0.1", "--quiet"]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("stored") / "run"
    assert main([*WORDS, "--audit", "--out", str(out)]) == 0
    return out


@pytest.fixture
def out(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def edit(out: Path, path: tuple[Any, ...], value: Any) -> None:
    """Put a value at a place of results.json; `...` removes the entry."""
    file = out / "results.json"
    data = json.loads(file.read_text())
    place = data
    for step in path[:-1]:
        place = place[step]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    file.write_text(json.dumps(data))


def refused(out: Path, capsys, *words: str) -> str:
    """The one line of a run that is refused; the folder is as it was."""
    files = [path for path in out.rglob("*") if path.is_file() and not path.is_symlink()]
    before = {path: path.read_bytes() for path in files if path.stat().st_size < 2**30}
    with pytest.raises(SystemExit) as stop:
        main([*WORDS, "--resume", *words, "--out", str(out)])
    assert stop.value.code == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert len(shown) < 1000
    assert {path: path.read_bytes() for path in before} == before
    return shown


RUN, ROW, CASE = ("runs", 0), ("runs", 0, "attacks", 0), ("runs", 0, "worst_case", 0)
CHECK = (*RUN, "audit", "checks", 0)
EDITS: list[tuple[tuple[Any, ...], Any]] = [
    (("schema",), 2),
    (("schema",), "1"),
    (("schema",), True),
    (("schema",), ...),
    (("runs",), ...),
    (("runs",), None),
    (("runs",), {}),
    (("runs",), [None]),
    (("runs",), ["none"]),
    (("config",), ...),
    (("config",), []),
    (("config", "eps"), 0.1),
    (("config", "eps"), []),
    (("config", "eps"), ["0.1"]),
    (("config", "eps"), [-0.1]),
    (("config", "norm"), "l3"),
    (("config", "norm"), ["linf", "l2"]),
    (("config", "norm"), None),
    (("config", "attacks"), "fgm"),
    (("config", "attacks"), ["magic"]),
    (("config", "defences"), [1]),
    (("config", "defences"), ["../../evil"]),
    (("config", "seeds"), 0),
    (("config", "seeds"), 1.5),
    (("config", "budget"), "huge"),
    (("config", "test_size"), "all"),
    (("config", "options"), {"sr": 1}),
    (("config", "optimizer"), "adan"),
    (("config", "momentum"), 0.9),
    (("config", "weight_decay"), "much"),
    (("config", "weight_average"), 1.5),
    (("environment",), []),
    (("environment",), {"python": {}}),
    (("left_out",), "all"),
    ((*RUN, "defence"), ...),
    ((*RUN, "defence"), "../../../etc/passwd"),
    ((*RUN, "defence"), "a\nb"),
    ((*RUN, "defence"), ["none"]),
    ((*RUN, "seed"), -1),
    ((*RUN, "seed"), "0"),
    ((*RUN, "status"), "fine"),
    ((*RUN, "reason"), None),
    ((*RUN, "clean_accuracy"), "high"),
    ((*RUN, "clean_accuracy"), 1.2),
    ((*RUN, "clean_accuracy"), float("nan")),
    ((*RUN, "train_seconds"), None),
    ((*RUN, "train_seconds"), -1),
    ((*RUN, "step_cost"), []),
    ((*RUN, "attacks"), {}),
    ((*ROW, "mask"), "../secret.npz"),
    ((*ROW, "mask"), "/etc/passwd"),
    ((*ROW, "mask"), "masks/../../secret.npz"),
    ((*ROW, "mask"), 3),
    ((*ROW, "mask"), None),
    ((*ROW, "attack"), "magic"),
    ((*ROW, "norm"), "l7"),
    ((*ROW, "eps"), None),
    ((*ROW, "eps"), float("inf")),
    ((*ROW, "robust_accuracy"), None),
    ((*ROW, "robust_accuracy"), -0.5),
    ((*ROW, "n"), 0),
    ((*ROW, "n"), 1e9),
    ((*ROW, "seconds"), "long"),
    ((*ROW, "view"), "sideways"),
    ((*CASE, "n"), 0),
    ((*CASE, "ci_low"), ...),
    ((*RUN, "union"), [{"eps": 3}]),
    ((*RUN, "random_noise"), [{"norm": "linf"}]),
    ((*RUN, "eot_curve"), [{"eps": 0.1, "samples": 0}]),
    ((*RUN, "certified"), [3]),
    ((*RUN, "queries"), {"mean": 3}),
    ((*RUN, "explanations"), {"metric": "gini"}),
    ((*RUN, "claim"), "met"),
    ((*RUN, "notes"), "none"),
    ((*RUN, "audit"), {"verdict": "robust"}),
    ((*RUN, "audit", "settings"), ...),
    ((*RUN, "audit", "checks"), "all"),
    ((*CHECK, "status"), "MAYBE"),
    ((*CHECK, "value"), "much"),
    ((*CHECK, "name"), ...),
]


@pytest.mark.parametrize(("path", "value"), EDITS, ids=[f"{path[-1]}-{value!r:.20}" for path, value in EDITS])
def test_edited_results_are_refused(out, capsys, path, value):
    edit(out, path, value)
    line = refused(out, capsys)
    assert re.search(
        r"results.json cannot be used as the results of a run \((its|it|config|runs|environment|left)", line
    )


TEXTS = {
    "empty": b"",
    "cut": b'{"schema": 1, "config"',
    "a list": b"[]",
    "a number": b"3",
    "nested": b"[" * 100_000,
    "no text": b"\xff\xfe\x00",
    "a number of too many digits": b'{"schema": ' + b"1" * 5000 + b"}",
    "an array of numpy": b"\x93NUMPY",
}


@pytest.mark.parametrize("name", TEXTS)
def test_other_texts_are_refused(out, capsys, name):
    (out / "results.json").write_bytes(TEXTS[name])
    assert "cannot be used as the results of a run" in refused(out, capsys)


def test_a_second_run_of_the_same_seed_is_refused(out, capsys):
    data = json.loads((out / "results.json").read_text())
    data["runs"].append(data["runs"][0])
    (out / "results.json").write_text(json.dumps(data))
    assert "second run of none with seed 0" in refused(out, capsys)


def test_what_a_newer_program_adds_is_left_alone(out):
    edit(out, (*RUN, "mood"), "good")
    edit(out, (*ROW, "queries"), 3)
    edit(out, (*CHECK, "weight"), 2)
    assert main([*WORDS, "--resume", "--out", str(out)]) == 0
    assert json.loads((out / "results.json").read_text())["runs"][0]["mood"] == "good"


def test_results_without_an_optimisation_were_optimised_by_the_defences_themselves(out):
    before = json.loads((out / "results.json").read_text())
    assert not set(OPTIMIZATION_OPTIONS) & set(before["config"])
    assert main([*WORDS, "--resume", "--out", str(out)]) == 0
    assert json.loads((out / "results.json").read_text())["runs"] == before["runs"]


def test_another_optimisation_is_another_run(out, capsys):
    assert "`weight_decay` was None and is now 0.1" in refused(out, capsys, "--weight-decay", "0.1")
    edit(out, ("config", "schedule"), "constant")
    assert "`schedule` was 'constant' and is now None" in refused(out, capsys)


def plant(path: Path, kind: str, secret: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if kind == "link":
        path.symlink_to(secret)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()


NAMES = ["results.json", "results.csv", "results.json.part", "report.html", "report.md", "robustness.png", "masks",
         "checkpoints", "masks/none-seed0-fgm-linf-0.1.npz", "checkpoints/none-seed0.safetensors"]  # fmt: skip


@pytest.mark.parametrize("kind", ["link", "pipe"])
@pytest.mark.parametrize("name", NAMES)
def test_links_and_pipes_in_the_folder_are_refused(out, tmp_path, capsys, name, kind):
    secret = tmp_path / "secret"
    secret.write_text("mine")
    plant(out / name, kind, secret)
    line = refused(out, capsys)
    assert str(out / name) in line
    assert secret.read_text() == "mine"


@pytest.mark.parametrize("name", ["masks/none-seed0-fgm-linf-0.1.npz", "checkpoints/none-seed0.safetensors"])
def test_a_sparse_terabyte_is_made_again(out, name):
    with open(out / name, "wb") as file:
        file.truncate(2**40)
    assert main([*WORDS, "--resume", "--out", str(out)]) == 0
    assert (out / name).stat().st_size < 2**20


def test_a_sparse_terabyte_of_results_is_refused(out, capsys):
    with open(out / "results.json", "wb") as file:
        file.truncate(2**40)
    assert "has 1099511627776 bytes" in refused(out, capsys)


def test_an_audit_beside_results_that_are_none_is_refused(out, tmp_path, capsys):
    edit(out, ("config", "eps"), "much")
    with pytest.raises(SystemExit) as stop:
        audit_cli.main(["--checkpoint", str(out / "checkpoints" / "none-seed0.safetensors"), "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert "results.json cannot be used" in capsys.readouterr().err


def test_an_audit_of_a_pipe_is_refused(tmp_path, capsys):
    os.mkfifo(tmp_path / "weights.safetensors")
    with pytest.raises(SystemExit) as stop:
        audit_cli.main(["--checkpoint", str(tmp_path / "weights.safetensors"), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_published_results_are_results():
    for file in (ROOT / "docs" / "results").glob("*.json"):
        data = json.loads(file.read_text())
        if "schema" in data and "runs" in data:
            assert read_results(file).runs
