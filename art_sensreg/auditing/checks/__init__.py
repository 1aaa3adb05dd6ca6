"""The checks of the audit, one module per group; importing a module registers its checks."""

# In the order of the report.
from art_sensreg.auditing.checks import preconditions, gradients, attack_health, adaptive, known_outcomes, plausibility  # noqa: F401, I001
from art_sensreg.auditing.checks.registry import (
    CHECKS,
    CheckSpec,
    Exemption,
    Finding,
    not_applicable,
    register_check,
    skip,
)

__all__ = ["CHECKS", "CheckSpec", "Exemption", "Finding", "not_applicable", "register_check", "skip"]
