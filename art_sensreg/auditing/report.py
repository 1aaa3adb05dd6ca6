"""What an audit says: one `Check` for each question, and the verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from art_sensreg.utils.tables import Table
from art_sensreg.utils.text import escape_markdown, one_line

STATUSES = ("PASS", "FAIL", "SKIP", "N/A", "ERROR")


@dataclass(frozen=True, kw_only=True)
class Check:
    """
    The answer to one question of the audit.

    :param name: Stable name, in snake_case.
    :param status: `PASS`, `FAIL`, `SKIP` (something was not given), `N/A` (it has no meaning for this model) or `ERROR`
        (the check itself raised).
    :param value: What was measured; None if nothing was.
    :param threshold: What the value was compared with.
    :param source: Paper and section that ask for it.
    :param meaning: What a FAIL means and what to try next, in one sentence.
    :param note: Details of this measurement; the reason of a SKIP, N/A or ERROR.
    :param seconds: Time that it took.

    Example:
    >>> from art_sensreg.auditing import Check
    >>> Check(name="deterministic", status="PASS", value=0.0, threshold=1e-4, source="-").status
    'PASS'
    """

    name: str
    status: str
    value: float | None = None
    threshold: float | None = None
    source: str = ""
    meaning: str = ""
    note: str = ""
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """The check as it stands in `results.json`; numbers that JSON has not become None."""
        return {
            "name": self.name,
            "status": self.status,
            "value": _number(self.value),
            "threshold": _number(self.threshold),
            "source": self.source,
            "meaning": self.meaning,
            "note": self.note,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """
    The result of an audit. Printed, it is a table.

    :param checks: One entry for each check that was asked for.
    :param settings: What was audited: eps, norm, number of points, accuracies.

    Example:
    >>> from art_sensreg.auditing import AuditReport, Check
    >>> failed = Check(name="deterministic", status="FAIL", value=0.3, threshold=1e-4)
    >>> AuditReport(checks=(failed,)).verdict
    'do not trust: deterministic'
    """

    checks: tuple[Check, ...]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """`no failure detected`, or `do not trust: ` and the checks that failed or raised; never "robust"."""
        failed = [check.name for check in self.checks if check.status == "FAIL"]
        errors = [f"{check.name} (error)" for check in self.checks if check.status == "ERROR"]
        return f"do not trust: {', '.join(failed + errors)}" if failed or errors else "no failure detected"

    def __getitem__(self, name: str) -> Check:
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"no check {name!r}; expected one of {', '.join(check.name for check in self.checks)}")

    def as_json(self) -> dict[str, Any]:
        """The report as it stands in `results.json`."""
        return {
            "verdict": self.verdict,
            "settings": {name: _number(value) for name, value in self.settings.items()},
            "checks": [check.as_json() for check in self.checks],
        }

    def __str__(self) -> str:
        return "\n".join([self.table().as_text(), "", *self.advice(), f"Verdict: {self.verdict}"])

    def table(self) -> Table:
        """One row for each check."""
        rows = [
            [check.name, check.status, _text(check.value), _text(check.threshold), f"{check.seconds:.1f}", check.source]
            for check in self.checks
        ]
        return Table(["check", "status", "value", "threshold", "s", "source"], rows, words=("status", "source"))

    def advice(self) -> list[str]:
        """One line for each check that did not pass."""
        lines = []
        for check in self.checks:
            if check.status == "FAIL":
                lines.append(f"{check.name}: {check.note + ' ' if check.note else ''}{check.meaning}")
            elif check.status != "PASS":
                lines.append(f"{check.name}: {check.status}: {check.note}")
        return [one_line(line) for line in lines]

    def as_markdown(self) -> str:
        """The report in Markdown: verdict, table, and what to do about each check that did not pass."""
        lines = [self.table().as_markdown(), f"**Verdict: {escape_markdown(self.verdict)}**"]
        lines += [f"- {escape_markdown(line)}" for line in self.advice()]
        settings = ", ".join(f"{name} {_text(value)}" for name, value in self.settings.items())
        return "\n\n".join([f"Audited: {escape_markdown(settings)}.", *lines]) + "\n"


def report_from_json(stored: dict[str, Any]) -> AuditReport:
    """
    Read a report back.

    :param stored: What `AuditReport.as_json` returned.
    :return: The report.

    Example:
    >>> from art_sensreg.auditing.report import Check, AuditReport, report_from_json
    >>> report = AuditReport(checks=(Check(name="deterministic", status="PASS"),), settings={"eps": 0.1})
    >>> report_from_json(report.as_json()) == report
    True
    """
    known = [field.name for field in fields(Check)]
    checks = [Check(**{name: check[name] for name in known if name in check}) for check in stored["checks"]]
    return AuditReport(checks=tuple(checks), settings=stored["settings"])


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
