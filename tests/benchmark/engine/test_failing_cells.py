"""Whatever a cell raises is the end of that cell alone; what it says of itself is quoted and obeyed nowhere."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from art_sensreg.auditing import AuditReport, Check
from art_sensreg.benchmark.attacks.registry import ATTACKS
from art_sensreg.benchmark.cli.suite import main
from art_sensreg.benchmark.defences.registry import DEFENCES, register
from art_sensreg.benchmark.engine import attack_run, claims, suite
from art_sensreg.benchmark.results.reading import read_results

WORDS = ["--model", "mlp", "--train-size", "60", "--test-size", "12", "--epochs", "1", "--eps", "0.1", "--quiet"]
HOSTILE = "=1+1 | <script>alert(1)</script>\n# title [x](http://y) `code` ``` \x1b[31m"


class Weird(BaseException):
    """No `Exception`, and cannot even be shown."""

    def __str__(self) -> str:
        raise ValueError("no words")


RAISED = [
    RuntimeError(HOSTILE), MemoryError(), RecursionError("too deep"), SystemExit(3), Weird(), GeneratorExit(),
    StopIteration(), UnicodeDecodeError("utf-8", b"x", 0, 1, "no text"), OSError(5, "broken disk"), Warning("careful"),
    KeyError("key"), AssertionError(), Exception("one\ntwo"),
]  # fmt: skip


def run(out, *words: str) -> tuple[int, list[dict]]:
    code = main([*WORDS, "--defences", "none,sr,jr", "--attacks", "fgm", "--out", str(out), *words])
    return code, json.loads((out / "results.json").read_text())["runs"]


def raising(error: BaseException):
    def raises(*args, **kwargs):
        raise error

    return raises


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_a_training_that_raises_anything(tmp_path, monkeypatch, error):
    monkeypatch.setitem(DEFENCES, "sr", replace(DEFENCES["sr"], training=raising(error)))
    code, (none, sr, jr) = run(tmp_path / "run")
    assert code == 1
    assert [entry["status"] for entry in (none, sr, jr)] == ["ok", "error", "ok"]
    assert sr["reason"].startswith(type(error).__name__)
    assert "\n" not in sr["reason"]
    assert len(jr["attacks"]) == 1


@pytest.mark.parametrize("error", [Weird(), SystemExit(0), MemoryError()], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("place", ["penalties", "attack", "random noise", "clean images", "claims"])
def test_other_parts_of_a_cell_that_raise(tmp_path, monkeypatch, place, error):
    if place == "penalties":
        monkeypatch.setitem(DEFENCES, "sr", replace(DEFENCES["sr"], penalties=raising(error)))
    elif place == "attack":
        monkeypatch.setitem(ATTACKS, "fgm", replace(ATTACKS["fgm"], build=raising(error)))
    elif place == "random noise":
        monkeypatch.setattr(attack_run, "noise_accuracy", raising(error))
    elif place == "clean images":
        monkeypatch.setattr(suite, "clean_outcome", raising(error))
    else:
        monkeypatch.setattr(claims, "judged", raising(error))
    code, runs = run(tmp_path / "run")
    assert len(runs) == 3
    if place == "penalties":
        assert [entry["status"] for entry in runs] == ["ok", "error", "ok"]
    elif place == "claims":
        assert code == 0
        assert {entry["claim"]["status"] for entry in runs} == {"not measured"}
    else:
        assert code == 1
        assert all(type(error).__name__ in entry["reason"] for entry in runs)


def test_a_stored_model_that_cannot_be_made_again_is_trained_again(tmp_path, monkeypatch):
    run(tmp_path / "run")
    calls = []
    original = DEFENCES["sr"].new_model

    def once(task, options):
        calls.append(1)
        if len(calls) == 1:
            raise Weird
        return original(task, options)

    monkeypatch.setitem(DEFENCES, "sr", replace(DEFENCES["sr"], architecture=once))
    code, runs = run(tmp_path / "run", "--resume")
    assert code == 0
    assert [entry["status"] for entry in runs] == ["ok"] * 3


def test_ctrl_c_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setitem(DEFENCES, "sr", replace(DEFENCES["sr"], training=raising(KeyboardInterrupt())))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run")
    assert [entry.defence for entry in read_results(tmp_path / "run" / "results.json").runs] == ["none"]


def test_pages_quote_what_a_cell_says(tmp_path, monkeypatch):
    """As report.html does: no row, tag, title, link, formula or escape sequence comes of it."""
    monkeypatch.setitem(DEFENCES, "sr", replace(DEFENCES["sr"], training=raising(RuntimeError(HOSTILE))))
    monkeypatch.setattr(suite, "audit_cell", lambda *args, **kwargs: hostile_report())
    run(tmp_path / "run", "--audit")
    page = (tmp_path / "run" / "report.md").read_text()
    assert "\x1b" not in page
    assert "<script>" not in page
    assert not re.search(r"^# title", page, re.MULTILINE)
    assert "](http" not in page
    (line,) = [line for line in page.splitlines() if line.startswith("| sr |")]
    assert len(re.findall(r"(?<!\\)\|", line)) == 7  # of six columns
    assert "<script>" not in (tmp_path / "run" / "report.html").read_text().replace("</style>", "")
    audit_rows = [line for line in page.splitlines() if line.startswith("| hostile")]
    assert audit_rows
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 7 for line in audit_rows)


def hostile_report() -> AuditReport:
    return AuditReport(
        checks=(Check(name="hostile", status="FAIL", value=1.0, threshold=0.0, source=HOSTILE, note=HOSTILE),)
    )


@pytest.mark.parametrize(
    "name",
    ["", "..", "../evil", "/tmp/evil", "a/b", "a\\b", "a.b", "a,b", "a=b", "a b", "a\nb", "a\x00b", "all", "trainers",
     "-x", "x" * 65, "ä", "a|b", "<b>", None, 3],
)  # fmt: skip
def test_names_that_are_no_part_of_a_file_are_refused(name):
    with pytest.raises(ValueError, match="`name` is"):
        register(replace(DEFENCES["sr"], name=name))
