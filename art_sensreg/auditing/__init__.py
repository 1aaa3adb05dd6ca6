"""The audit: whether an evaluation can be believed, check by check."""

# Importing a module puts its checks on the list, in the order of the report.
from art_sensreg.auditing import preconditions, gradients, attack_health, adaptive, known_outcomes, plausibility  # noqa: F401, I001
from art_sensreg.auditing.registry import CHECKS
from art_sensreg.auditing.report import AuditReport, Check
from art_sensreg.auditing.run import audit

__all__ = ["CHECKS", "AuditReport", "Check", "audit"]
