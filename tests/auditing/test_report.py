"""What an audit says, in each of its forms."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from art_sensreg.auditing import CHECKS, AuditReport, Check
from tests.auditing.reports import report_of

STATUSES = ("PASS", "FAIL", "SKIP", "N/A", "ERROR")
HOSTILE = "<script src='http://example.org/x.js'></script>\n| [x](y)"


@pytest.fixture
def every_status() -> AuditReport:
    checks = tuple(Check(name=f"check_{status}", status=status, note=f"why {status}.") for status in STATUSES)
    return AuditReport(checks=checks, settings={"eps": 0.1, "norm": "linf"})


def test_the_verdict_names_what_failed_and_what_raised(every_status):
    assert every_status.verdict == "do not trust: check_FAIL, check_ERROR (error)"
    assert AuditReport(checks=every_status.checks[::2][:2]).verdict == "no failure detected"


def test_failures_are_the_failed_checks_alone(every_status):
    assert [check.name for check in every_status.failures] == ["check_FAIL"]


def test_a_check_is_found_by_its_name(every_status):
    assert every_status["check_SKIP"].status == "SKIP"
    with pytest.raises(KeyError, match="no check 'magic'; expected one of check_PASS"):
        every_status["magic"]


def test_what_does_not_apply_stands_in_every_form_of_the_report():
    report = AuditReport(checks=(Check(name="eot_samples_suffice", status="N/A", note="the model is deterministic."),))
    assert report.verdict == "no failure detected"
    for text in (str(report), report.as_markdown()):
        assert "eot_samples_suffice: N/A: the model is deterministic." in text
    assert "N/A: the model is deterministic." in report._repr_html_()


def test_a_report_survives_json():
    checks = (Check(name="a", status="FAIL", value=0.5, threshold=0.1, source="s", meaning="m", note="n", seconds=1.5),)
    report = AuditReport(checks=checks, settings={"eps": 0.1})
    assert AuditReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    keys = ["name", "status", "value", "threshold", "source", "meaning", "note", "seconds", "measures"]
    assert list(report.to_dict()["checks"][0]) == keys


def test_numbers_that_json_does_not_have_become_null():
    report = AuditReport(
        checks=(Check(name="a", status="FAIL", value=float("inf"), threshold=0.1),),
        settings={"clean accuracy": float("nan")},
    )
    stored = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert (stored["checks"][0]["value"], stored["settings"]["clean accuracy"]) == (None, None)


def test_a_printed_report_fits_100_columns(digits, plain):
    for report in (
        report_of(plain, digits, 16, checks=None),
        AuditReport(
            checks=tuple(
                Check(
                    name=name,
                    status="ERROR",
                    value=-1.234e-100,
                    threshold=1.234e-100,
                    source=spec.source,
                    note="x " * 99,
                )
                for name, spec in CHECKS.items()
            )
        ),
    ):
        assert max(map(len, str(report).splitlines())) <= 100


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}


@pytest.mark.parametrize("form", ["_repr_html_", "to_html"])
def test_html_is_self_contained_and_escaped(every_status, form):
    hostile = Check(name=HOSTILE, status=HOSTILE, source=HOSTILE, note=HOSTILE, meaning=HOSTILE, measures=HOSTILE)
    report = AuditReport(checks=(*every_status.checks, hostile), settings={HOSTILE: HOSTILE})
    page = getattr(report, form)()
    parser = Tags()
    parser.feed(page)
    assert {"img", "iframe", "object", "form"}.isdisjoint(parser.tags)
    assert parser.tags.count("script") == (form == "to_html")
    assert {"src", "srcset", "onclick", "style"}.isdisjoint(parser.attributes)
    assert not re.search(r"url\(|@import|https?://(?!example)", page)
    assert page.count("example.org") == page.count("src=&#39;http://example.org")


def test_html_opens_what_failed_and_folds_what_passed(every_status):
    page = AuditReport(checks=every_status.checks, settings={"eps": 0.1, "slack": 0.02}).to_html("My model")
    assert "<title>My model</title>" in page
    folded = page[page.index("<details>") :]
    opened = page[: page.index("<details>")]
    assert "why FAIL." in opened
    assert "why ERROR." in opened
    assert all(f"why {status}." in folded for status in ("PASS", "SKIP", "N/A"))
    assert "slack for the sampling error <b>0.02</b>" in opened


def test_markdown_and_print_keep_text_of_strangers_in_its_cell():
    report = AuditReport(checks=(Check(name=HOSTILE, status="PASS", source=HOSTILE),), settings={HOSTILE: 1})
    assert len(str(report).splitlines()) == 5
    row = next(line for line in report.as_markdown().splitlines() if line.startswith("| &lt;script"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 7
