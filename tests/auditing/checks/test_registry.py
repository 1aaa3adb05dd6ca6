"""The list of checks, which a user may add to."""

from __future__ import annotations

import pytest

from art_sensreg.auditing import CHECKS, Exemption, Finding, not_applicable, register_check, skip
from tests.auditing.reports import report_of


@pytest.fixture(autouse=True)
def _restored():
    before = dict(CHECKS)
    yield
    CHECKS.clear()
    CHECKS.update(before)


@pytest.mark.parametrize(
    ("finding", "status"),
    [
        (Finding(0.1, 0.1), "PASS"),
        (Finding(0.2, 0.1), "FAIL"),
        (Finding(float("nan"), 0.1), "FAIL"),
        (skip("no twin was given."), "SKIP"),
        (not_applicable("the model is deterministic."), "N/A"),
    ],
)
def test_the_status_follows_from_value_and_threshold(finding, status):
    assert finding.status == status


def test_a_custom_check_runs_in_every_later_audit(digits, tiny):
    @register_check(source="own", meaning="Somebody has turned the images upside down: turn them back.")
    def images_upright(context):
        """Number of images."""
        return Finding(float(context.inputs.n), 10.0, "too many.")

    spec = CHECKS["images_upright"]
    assert (spec.name, spec.measures, spec.source) == ("images_upright", "Number of images.", "own")
    report = report_of(tiny, digits, 16, checks=["images_upright"])
    assert report.verdict == "do not trust: images_upright"
    assert "too many. Somebody has turned the images upside down" in str(report)
    assert list(CHECKS)[-1] == "images_upright"


def test_a_check_is_not_run_where_it_does_not_apply(digits, tiny):
    few = Exemption("there are too few images.", lambda context: context.inputs.n < 10)

    @register_check(source="own", meaning="There are images.", exemptions=[few])
    def none_left(context):
        """Number of images."""
        return Finding(float(context.inputs.n), 0.0)

    found = report_of(tiny, digits, 4, checks=["none_left"])["none_left"]
    assert (found.status, found.note) == ("N/A", "there are too few images.")
    assert report_of(tiny, digits, 16, checks=["none_left"])["none_left"].status == "FAIL"


def test_a_taken_name_and_a_check_without_words_are_refused():
    def deterministic(context):
        """Something else."""

    with pytest.raises(ValueError, match="there is a check 'deterministic' already"):
        register_check(source="own", meaning="-")(deterministic)
    with pytest.raises(ValueError, match="the check '<lambda>' has no docstring"):
        register_check(source="own", meaning="-")(lambda context: Finding(0.0, 0.0))
