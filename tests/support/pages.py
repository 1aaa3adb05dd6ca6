"""A run with everything that a page can show, for the tests that look at it."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from art_sensreg.auditing import CHECKS, AuditReport, Check
from art_sensreg.benchmark.results.examples import Examples, write_examples
from art_sensreg.benchmark.results.reading import audit_record, read_results
from art_sensreg.benchmark.results.records import RunRecord
from art_sensreg.benchmark.results.report import write_report
from art_sensreg.benchmark.results.writing import results_json, write_text
from tests.paths import ROOT


def written_page(out: Path) -> Path:
    """`report.html` of the stored run on the digits, with audits, images and training curves that nobody measured."""
    stored = read_results(ROOT / "docs" / "results" / "digits-bench.json")
    out.mkdir()
    runs = tuple(_filled(run, number, out) for number, run in enumerate(stored.runs))
    command = "python benchmarks/run_art_suite.py --dataset digits --audit " + "--set sr.sigma=0.3 " * 9
    write_text(out / "results.json", results_json(replace(stored, runs=runs, commands=(command,))))
    write_report([out], out)
    return out / "report.html"


def audit_report(failing: int) -> AuditReport:
    """An audit of all checks, the first of which fail."""
    checks = tuple(
        Check(
            name=name,
            status="FAIL" if number < failing else ("PASS", "PASS", "SKIP", "N/A")[number % 4],
            value=0.1234,
            threshold=0.2,
            source=spec.source,
            meaning=spec.meaning,
            measures=spec.measures,
            note="a note on what was found.",
        )
        for number, (name, spec) in enumerate(CHECKS.items())
    )
    settings = {"eps": 0.1, "norm": "linf", "points": 200, "steps": 80, "seed": 0, "slack": 0.0123}
    return AuditReport(checks=checks, settings=settings)


def _filled(run: RunRecord, number: int, out: Path) -> RunRecord:
    rng = np.random.default_rng(0)
    x = rng.random((6, 1, 8, 8), dtype=np.float32)
    examples = Examples(
        norm="linf", eps=0.2, steps=20, x=x, x_adv=1 - x, y=np.arange(6), logits=rng.random((2, 6, 10))
    )  # fmt: skip
    name = f"examples/{run.defence}-seed0.npz"
    write_examples(out, name, examples)
    epochs = tuple({"loss": 2.0 / (epoch + 1) + number / 10, "accuracy": 1 - 0.5 / (epoch + 1)} for epoch in range(5))
    cost = run.step_cost or 1.0
    return replace(
        run,
        examples=name,
        history=epochs,
        step_cost_repeats=(0.9 * cost, cost, 1.2 * cost),
        audit=audit_record(audit_report(failing=3 if number == 2 else 0)) if number < 4 else None,
    )
