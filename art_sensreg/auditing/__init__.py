"""The audit: whether an evaluation can be believed, check by check."""

from art_sensreg.auditing.checks import CHECKS
from art_sensreg.auditing.report import AuditReport, Check
from art_sensreg.auditing.run import audit

__all__ = ["CHECKS", "AuditReport", "Check", "audit"]
