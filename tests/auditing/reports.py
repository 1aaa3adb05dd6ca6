"""Short ways to audit a classifier of the digits."""

from __future__ import annotations

from typing import Any

import numpy as np
from art.estimators.classification import PyTorchClassifier

from art_sensreg import audit
from art_sensreg.auditing import AuditReport
from art_sensreg.auditing.context import AuditContext
from art_sensreg.auditing.context.inputs import QUICK, AuditInputs, validated
from art_sensreg.datasets import Dataset


def report_of(classifier: PyTorchClassifier, digits: Dataset, n: int = 40, **kwargs: Any) -> AuditReport:
    """A quick audit on the first test images."""
    return audit(classifier, digits.x_test[:n], digits.y_test[:n], **{"eps": 0.1, "quick": True, **kwargs})


def statuses(classifier: PyTorchClassifier, digits: Dataset, checks: list[str], **kwargs: Any) -> dict[str, str]:
    """The status of each check that was asked for."""
    report = report_of(classifier, digits, **{"n": 16, **kwargs}, checks=checks)
    return {check.name: check.status for check in report.checks}


def context_of(classifier: PyTorchClassifier, x: np.ndarray, y: np.ndarray, **kwargs: Any) -> AuditContext:
    """What the checks get."""
    settings = {"eps": 0.1, "norm": "linf", "seed": 0, "effort": QUICK, **kwargs}
    return AuditContext(validated(AuditInputs(classifier=classifier, x=x, y=y, **settings)))
