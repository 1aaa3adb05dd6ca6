"""The report of an audit: one `Check` for each question, and the verdict."""

from __future__ import annotations

import math
import textwrap
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from art_sensreg.auditing.view import AuditView, audit_view, number_text
from art_sensreg.utils.html import render
from art_sensreg.utils.tables import Table
from art_sensreg.utils.text import escape_markdown, one_line

STATUSES = ("PASS", "FAIL", "SKIP", "N/A", "ERROR")
# Maximum width of a printed report.
_WIDTH = 100


@dataclass(frozen=True, kw_only=True)
class Check:
    """
    The answer to one question of the audit.

    :param name: Stable name, in snake_case.
    :param status: `PASS`, `FAIL`, `SKIP` (an input was not given), `N/A` (the question does not apply to this model)
        or `ERROR` (the check itself raised an exception).
    :param value: What was measured; None if nothing was.
    :param threshold: What the value was compared with.
    :param source: Paper and section that ask for it.
    :param measures: What it measures, in one line.
    :param meaning: What a FAIL means and what to try next, in one sentence.
    :param note: Details of this measurement; the reason for a SKIP, N/A or ERROR.
    :param seconds: How long it took.

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
    measures: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The check as `results.json` stores it; numbers that JSON does not have become None."""
        return {name: _number(value) for name, value in asdict(self).items()} | {"seconds": round(self.seconds, 3)}


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """
    The result of an audit. It prints as a table, and renders as a page in notebooks.

    :param checks: One entry for each check that was run.
    :param settings: What was audited: eps, norm, number of points, accuracies.

    Example:
    >>> from art_sensreg.auditing import AuditReport, Check
    >>> report = AuditReport(checks=(Check(name="deterministic", status="FAIL", value=0.3, threshold=1e-4),))
    >>> report.verdict, report["deterministic"].value
    ('do not trust: deterministic', 0.3)
    """

    checks: tuple[Check, ...]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def failures(self) -> tuple[Check, ...]:
        """
        The checks that failed.

        Example:
        >>> from art_sensreg.auditing import AuditReport, Check
        >>> report = AuditReport(checks=(Check(name="a", status="PASS"), Check(name="b", status="FAIL")))
        >>> [check.name for check in report.failures]
        ['b']
        """
        return tuple(check for check in self.checks if check.status == "FAIL")

    @property
    def verdict(self) -> str:
        """`no failure detected`, or `do not trust:` and the checks that failed or raised; never "robust"."""
        failed = [check.name for check in self.failures]
        errors = [f"{check.name} (error)" for check in self.checks if check.status == "ERROR"]
        return f"do not trust: {', '.join(failed + errors)}" if failed or errors else "no failure detected"

    def __getitem__(self, name: str) -> Check:
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"no check {name!r}; expected one of {', '.join(check.name for check in self.checks)}")

    def to_dict(self) -> dict[str, Any]:
        """
        The report as `results.json` stores it.

        Example:
        >>> from art_sensreg.auditing import AuditReport, Check
        >>> report = AuditReport(checks=(Check(name="deterministic", status="PASS"),), settings={"eps": 0.1})
        >>> AuditReport.from_dict(report.to_dict()) == report
        True
        """
        return {
            "verdict": self.verdict,
            "settings": {name: _number(value) for name, value in self.settings.items()},
            "checks": [check.to_dict() for check in self.checks],
        }

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> AuditReport:
        """
        Read a report back.

        :param stored: What :meth:`to_dict` returned; further entries of a check are left out.
        :return: The report.
        """
        known = [field.name for field in fields(Check)]
        checks = [Check(**{name: check[name] for name in known if name in check}) for check in stored["checks"]]
        return cls(checks=tuple(checks), settings=stored["settings"])

    def table(self) -> Table:
        """One row for each check."""
        rows = []
        for check in self.checks:
            numbers = [number_text(check.value), number_text(check.threshold), f"{check.seconds:.1f}"]
            rows.append([check.name, check.status, *numbers, check.source])
        return Table(["check", "status", "value", "threshold", "s", "source"], rows, words=("status", "source"))

    def advice(self) -> list[str]:
        """One line for each check that did not pass: what was found, what it means and what to try next."""
        lines = []
        for check in self.checks:
            if check.status == "FAIL":
                lines.append(f"{check.name}: {check.note + ' ' if check.note else ''}{check.meaning}")
            elif check.status != "PASS":
                lines.append(f"{check.name}: {check.status}: {check.note}")
        return [one_line(line) for line in lines]

    def __str__(self) -> str:
        table = self.table()
        # Only the authors, to keep lines short: `table` and the other forms have the full sources.
        rows = [[*row[:-1], textwrap.shorten(row[-1].split(",")[0], 30, placeholder="...")] for row in table.rows]
        texts = [*self.advice(), f"Verdict: {one_line(self.verdict)}"]
        wrapper = textwrap.TextWrapper(_WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        return "\n".join([replace(table, rows=rows).as_text(), "", *map(wrapper.fill, texts)])

    def as_markdown(self) -> str:
        """The report in Markdown: verdict, table, and what to do about each check that did not pass."""
        lines = [self.table().as_markdown(), f"**Verdict: {escape_markdown(self.verdict)}**"]
        lines += [f"- {escape_markdown(line)}" for line in self.advice()]
        return "\n\n".join([f"Audited: {escape_markdown(self._settings())}.", *lines]) + "\n"

    def to_html(self, title: str = "Audit") -> str:
        """
        The report as a page: one file that needs no other and makes no request, light or dark as the reader's system.

        :param title: Its heading.
        :return: HTML.

        Example:
        >>> from art_sensreg.auditing import AuditReport, Check
        >>> page = AuditReport(checks=(Check(name="deterministic", status="PASS"),)).to_html("My model")
        >>> page.startswith("<!doctype html>"), "no failure detected" in page
        (True, True)
        """
        return render("art_sensreg.auditing/page.html", title=title, view=self._view(), number=number_text)

    def _repr_html_(self) -> str:
        """The report in notebooks."""
        return render("art_sensreg.auditing/fragment.html", view=self._view(), number=number_text)

    def _view(self) -> AuditView:
        return audit_view(self.verdict, self.settings, self.checks)

    def _settings(self) -> str:
        return one_line(", ".join(f"{name} {number_text(value)}" for name, value in self.settings.items()))


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
