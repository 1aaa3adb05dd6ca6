"""The audit: checks that say whether an evaluation can be believed."""

from art_sensreg.auditing.checks import CHECKS
from art_sensreg.auditing.context import AuditContext
from art_sensreg.auditing.registry import CheckSpec, Exemption, Finding, not_applicable, register_check, skip
from art_sensreg.auditing.report import AuditReport, Check
from art_sensreg.auditing.run import audit

__all__ = [
    "CHECKS",
    "AuditContext",
    "AuditReport",
    "Check",
    "CheckSpec",
    "Exemption",
    "Finding",
    "audit",
    "not_applicable",
    "register_check",
    "skip",
]
