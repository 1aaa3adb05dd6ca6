"""Whatever a stage of a run raises ends that stage alone; what it says of itself is quoted and obeyed nowhere."""

import json
import re
from dataclasses import replace

import pytest

from art_sensreg.auditing import AuditReport, Check
from art_sensreg.benchmark.attacks import ATTACKS
from art_sensreg.benchmark.cli.suite import main
from art_sensreg.benchmark.engine import attack_run, claims, suite
from art_sensreg.benchmark.engine.runtime import attempt
from art_sensreg.benchmark.results.reading import read_results
from art_sensreg.training.distributed import ProcessLostError
from tests.benchmark.runs import raising, replaced

WORDS = ["--model", "mlp", "--train-size", "60", "--test-size", "12", "--epochs", "1", "--eps", "0.1", "--quiet"]
HOSTILE = "=1+1 | <script>alert(1)</script>\n# title [x](http://y) `code` ``` \x1b[31m"


class Weird(BaseException):
    """No `Exception`, and cannot even be shown."""

    def __str__(self) -> str:
        raise ValueError("no words")


RAISED = [
    RuntimeError(HOSTILE), SystemExit(3), Weird(), Exception("one\ntwo"),
]  # fmt: skip
MORE_RAISED = [
    MemoryError(), RecursionError("too deep"), GeneratorExit(), OSError(5, "broken disk"), Warning("careful"),
    KeyError("key"), AssertionError(), StopIteration(), UnicodeDecodeError("utf-8", b"x", 0, 1, "no text"),
]  # fmt: skip


def run(out, *words: str) -> tuple[int, list[dict]]:
    code = main([*WORDS, "--defences", "none,sr,jr", "--attacks", "fgm", "--out", str(out), *words])
    return code, json.loads((out / "results.json").read_text())["runs"]


@pytest.mark.parametrize(
    "error",
    [*RAISED, *(pytest.param(error, marks=pytest.mark.slow) for error in MORE_RAISED)],
    ids=lambda error: type(error).__name__,
)
def test_a_training_that_raises_anything(tmp_path, monkeypatch, error):
    replaced(monkeypatch, "sr", training=raising(error))
    code, (none, sr, jr) = run(tmp_path / "run")
    assert code == 1
    assert [entry["status"] for entry in (none, sr, jr)] == ["ok", "error", "ok"]
    assert sr["reason"].startswith(type(error).__name__)
    assert "\n" not in sr["reason"]
    assert len(jr["attacks"]) == 1


@pytest.mark.parametrize(
    "error",
    [Weird(), *(pytest.param(error, marks=pytest.mark.slow) for error in (SystemExit(0), MemoryError()))],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("place", ["penalties", "attack", "random noise", "clean images", "claims"])
def test_other_parts_of_a_run_that_raise(tmp_path, monkeypatch, place, error):
    if place == "penalties":
        replaced(monkeypatch, "sr", penalties=raising(error))
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


def test_ctrl_c_ends_the_run(tmp_path, monkeypatch):
    replaced(monkeypatch, "sr", training=raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run")
    assert [entry.defence for entry in read_results(tmp_path / "run" / "results.json").runs] == ["none"]


def test_pages_quote_what_a_run_says(tmp_path, monkeypatch):
    """As report.html does: no row, tag, title, link, formula or escape sequence comes of it."""
    replaced(monkeypatch, "sr", training=raising(RuntimeError(HOSTILE)))
    monkeypatch.setattr(suite, "audit_target", lambda *args, **kwargs: hostile_report())
    run(tmp_path / "run", "--audit")
    page = (tmp_path / "run" / "report.md").read_text()
    assert "\x1b" not in page
    assert "<script>" not in page
    assert not re.search(r"^# title", page, re.MULTILINE)
    assert "](http" not in page
    (line,) = [line for line in page.splitlines() if line.startswith("| sr |")]
    assert len(re.findall(r"(?<!\\)\|", line)) == 8  # of seven columns
    assert "<script>alert" not in (tmp_path / "run" / "report.html").read_text()
    audit_rows = [line for line in page.splitlines() if line.startswith("| hostile")]
    assert audit_rows
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 7 for line in audit_rows)


def hostile_report() -> AuditReport:
    return AuditReport(
        checks=(Check(name="hostile", status="FAIL", value=1.0, threshold=0.0, source=HOSTILE, note=HOSTILE),)
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ProcessLostError("gone")])
def test_some_errors_end_the_entire_suite(error):
    with pytest.raises(type(error)):
        attempt(raising(error))
