"""The audit finds planted faults and reports no failure on honest models; docs/audit.md says which check finds what."""

from __future__ import annotations

import re

import pytest
from torch import nn

from art_sensreg import JacobianPenalty, SensitivityPenalty, audit
from art_sensreg.auditing import CHECKS
from art_sensreg.datasets import Dataset
from tests.auditing.models.honest import HONEST, honest_data, honest_model
from tests.auditing.models.planted import PLANTED
from tests.paths import ROOT

PAGE = (ROOT / "docs" / "audit.md").read_text()
# Rows of the table: the fault in words, planted models, checks.
TABLE = [
    ([name.strip("` ") for name in models.split(",")], [name.strip("` ") for name in checks.split(",")])
    for models, checks in re.findall(
        r"^\| [^|]+ \| ([^|]+) \| ([^|]+) \|$", PAGE.split("## Which check")[1], re.MULTILINE
    )
    if "`" in models
]
MUST = [(model, checks) for models, checks in TABLE for model in models]
NOT_QUICK = set(re.findall(r"`(\w+)`", PAGE.split("### Found by the whole audit only")[1].split("###")[0]))
NOT_FOUND = set(re.findall(r"`(\w+)`", PAGE.split("### Not found")[1]))
# Enough of each kind for every run of the tests; the slow tests take all.
FEW_HONEST, MORE_HONEST = ("linear", "tiny_mlp", "sr_jr"), ("plain", "fast_adversarial")
# Faults that have a twin in the table, found by the same checks.
TWINS = ("purification_by_func_grad",)


def fault(model: str, checks: list[str]):
    return pytest.param(model, checks, id=model, marks=[pytest.mark.slow] if model in TWINS else [])


# What a deterministic model cannot be asked, and a bound that the points of these few do not give.
RANDOM_ONLY = ("eot_samples_suffice", "repeated_scoring_agrees", "plausible")
DOES_NOT_APPLY = {
    "plain": ("transfer_from_twin", "twin_falls"),
    "linear": ("hidden_distances_gain_little",),
    "fast_adversarial": ("transfer_from_surrogates",),  # it is the surrogate itself
}


@pytest.fixture(scope="module")
def base(digits: Dataset) -> nn.Module:
    return honest_model("plain", digits)[0].model


def size(name: str, eps: float) -> float:
    return eps * 255 if name == "grey_values_to_255" else eps


def failed(report) -> list[str]:
    return [check.name for check in report.checks if check.status in ("FAIL", "ERROR")]


def test_the_table_is_long_enough():
    assert len(TABLE) >= 12
    assert {check for _, checks in TABLE for check in checks} <= set(CHECKS)


def test_the_page_lists_every_check_with_what_it_measures_and_its_source():
    for name, spec in CHECKS.items():
        assert f"| `{name}` | {spec.measures.rstrip('.')} | {spec.source} |" in PAGE


@pytest.mark.parametrize(("model", "checks"), [fault(model, checks) for model, checks in MUST])
def test_each_planted_fault_is_caught_by_its_checks(digits, base, model, checks):
    classifier = PLANTED[model].build(digits, base)
    report = audit(classifier, digits.x_test, digits.y_test, eps=0.1, checks=checks, quick=True)
    assert failed(report) == [name for name in CHECKS if name in checks]
    assert report.verdict.startswith("do not trust: ")


@pytest.mark.parametrize("name", [*FEW_HONEST, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE_HONEST)])
def test_no_failure_and_no_skip_on_honest_models_with_everything_given(digits, name):
    classifier, x, y = honest_model(name, digits)
    data = honest_data(name, digits)
    report = audit(
        classifier,
        x,
        y,
        eps=0.1,
        quick=True,
        twin=honest_model("plain", digits)[0],
        surrogates=[honest_model("fast_adversarial", digits)[0]],
        penalties=[SensitivityPenalty(), JacobianPenalty()],
        train_data=(data.x_train, data.y_train),
    )
    assert failed(report) == []
    assert report.verdict == "no failure detected"
    found = {check.name: check.status for check in report.checks}
    expected = {*RANDOM_ONLY, *DOES_NOT_APPLY.get(name, ())}
    assert {check for check, status in found.items() if status == "N/A"} - {"optimisation_complete"} == expected
    assert set(found.values()) == {"PASS", "N/A"}


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTED)
def test_every_planted_model_fails(digits, base, name):
    quick = name not in NOT_QUICK
    report = audit(PLANTED[name].build(digits, base), digits.x_test, digits.y_test, eps=0.1, quick=quick)
    assert bool(failed(report)) == (name not in NOT_FOUND)


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.05), ("linf", 0.1), ("linf", 0.2), ("l2", 0.5), ("l1", 3.0)])
@pytest.mark.parametrize("name", HONEST)
def test_no_honest_model_fails(digits, name, norm, eps):
    classifier, x, y = honest_model(name, digits)
    report = audit(classifier, x, y, eps=size(name, eps), norm=norm)
    assert failed(report) == []
