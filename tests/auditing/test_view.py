"""What a page shows of an audit, sorted by what became of the checks."""

import pytest

from art_sensreg.auditing import Check
from art_sensreg.auditing.view import audit_view, number_text


def test_checks_are_sorted_by_their_answer_and_settings_by_weight():
    checks = [Check(name=status, status=status) for status in ("PASS", "FAIL", "SKIP", "N/A", "ERROR", "PASS")]
    view = audit_view("do not trust: FAIL", {"mood": "good", "points": 4, "eps": 0.1, "norm": "l2"}, checks)
    assert [[check.name for check in part] for part in (view.failed, view.passed, view.others)] == [
        ["FAIL", "ERROR"], ["PASS", "PASS"], ["SKIP", "N/A"]
    ]  # fmt: skip
    assert view.scope == (("norm", "l2"), ("eps", "0.1"), ("points", "4"), ("mood", "good"))
    assert not view.trusted


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (0.123456, "0.1235"), (3, "3"), ("linf", "linf")])
def test_numbers_have_four_digits(value, text):
    assert number_text(value) == text
