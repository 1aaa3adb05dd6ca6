"""The audit as a whole: what it runs, and that nothing that raises stops it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg import SensRegClassifier, audit
from art_sensreg.auditing import CHECKS, AuditReport
from art_sensreg.models import build_model
from tests.auditing.models.planted_base import wrap
from tests.auditing.reports import report_of


def test_the_report_has_what_the_contract_says(digits, plain):
    report = report_of(plain, digits, 60, norm="linf", seed=0)
    assert isinstance(report, AuditReport)
    assert [check.name for check in report.checks] == list(CHECKS)
    for check in report.checks:
        assert check.status in ("PASS", "FAIL", "SKIP", "N/A", "ERROR")
        assert "arXiv" in check.source
        assert len(check.meaning.split()) > 8
        if check.status == "PASS":
            assert check.value <= check.threshold
    assert {check.name for check in report.checks if check.status == "SKIP"} == {
        "transfer_from_twin",
        "transfer_from_surrogates",
        "twin_falls",
    }
    assert report.verdict == "no failure detected"
    assert report.settings["points"] == 60
    assert AuditReport.from_dict(json.loads(json.dumps(report.to_dict()))).verdict == report.verdict
    assert all(name in str(report) and name in report.as_markdown() for name in CHECKS)


@pytest.mark.slow
def test_a_check_says_the_same_alone_and_among_all(digits, plain):
    whole = report_of(plain, digits, 60)
    for name in ("far_starts_gain_little", "random_search_finds_nothing", "binarised_copies_fall"):
        alone = report_of(plain, digits, 60, checks=[name])
        assert [check.name for check in alone.checks] == [name]
        assert alone.checks[0].value == whole[name].value


def test_a_check_that_raises_is_an_error_and_the_others_run(digits, plain, monkeypatch):
    def broken(context):
        raise RuntimeError("no memory\nleft")

    monkeypatch.setitem(CHECKS, "deterministic", replace(CHECKS["deterministic"], function=broken))
    report = report_of(plain, digits, 60, checks=["eval_mode", "deterministic", "budget_kept"])
    assert [check.status for check in report.checks] == ["PASS", "ERROR", "PASS"]
    assert report["deterministic"].note == "RuntimeError: no memory left"
    assert report.verdict == "do not trust: deterministic (error)"


def test_a_model_that_raises_gives_a_report_too(digits):
    class Raises(nn.Module):
        def forward(self, x):
            raise RuntimeError("not today")

    report = report_of(wrap(digits, Raises()), digits, 60)
    assert "ERROR" in {check.status for check in report.checks}
    assert report.verdict.startswith("do not trust")


def test_an_untrained_model_has_a_report(digits):
    torch.manual_seed(0)
    model = build_model("mlp", digits.input_shape, 10)
    report = report_of(wrap(digits, model, SensRegClassifier), digits, 60)
    assert "ERROR" not in {check.status for check in report.checks}


@pytest.mark.parametrize(("norm", "eps"), [pytest.param(2, 0.5, marks=pytest.mark.slow), ("l1", 2.0), (np.inf, 0.1)])
def test_no_failure_in_any_norm(digits, plain, norm, eps):
    report = report_of(plain, digits, 40, eps=eps, norm=norm, twin=plain)
    assert report.verdict == "no failure detected"
    assert 0 < report.settings["accuracy under the attack"] < report.settings["clean accuracy"]


def zeros_and_ones(digits):
    rows = np.flatnonzero(np.isin(digits.y_train, (0, 1)))
    return digits.x_train[rows], digits.y_train[rows]


@pytest.fixture(scope="module")
def one_logit(digits):
    """A linear model with a single output, trained to tell zeros from ones."""
    x, y = zeros_and_ones(digits)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(50):
        logits = model(torch.from_numpy(x))[:, 0]
        loss = nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(y).float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


class TwoColumns(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([-x, x], dim=1)


@pytest.mark.parametrize("outputs", [1, 2])
def test_two_classes_by_one_output_or_two(digits, one_logit, outputs):
    x, y = zeros_and_ones(digits)
    model = one_logit if outputs == 1 else nn.Sequential(one_logit, TwoColumns())
    loss = nn.BCEWithLogitsLoss() if outputs == 1 else nn.CrossEntropyLoss()
    settings = {"clip_values": (0.0, 1.0), "device_type": "cpu"}
    classifier = PyTorchClassifier(model, loss, digits.input_shape, 2, **settings)
    assert audit(classifier, x, y, eps=0.1, quick=True).verdict == "no failure detected"
