"""The context of an audit's checks: inputs, threat model, the model's predictions and the shared attacks."""

from art_sensreg.auditing.context.context import AuditContext
from art_sensreg.auditing.context.inputs import FULL, QUICK, AuditInputs, Effort, validated
from art_sensreg.auditing.context.shared_attacks import PgdSettings

__all__ = ["FULL", "QUICK", "AuditContext", "AuditInputs", "Effort", "PgdSettings", "validated"]
