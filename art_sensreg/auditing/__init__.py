"""The audit: checks that say whether an evaluation can be trusted."""

from art_sensreg.auditing.checks import CHECKS, CheckSpec, Exemption, Finding, not_applicable, register_check, skip
from art_sensreg.auditing.context import AuditContext, PgdSettings
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
    "PgdSettings",
    "audit",
    "not_applicable",
    "register_check",
    "skip",
]
