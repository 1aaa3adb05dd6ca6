"""The configuration of a run: the request, the settings that follow from it, and the threat models."""

from art_sensreg.benchmark.config.audit_request import AuditRequest
from art_sensreg.benchmark.config.optimization import OptimizationSettings
from art_sensreg.benchmark.config.request import SuiteRequest
from art_sensreg.benchmark.config.settings import BUDGETS, FILE_RECIPE, RECIPES, Recipe, SuiteSettings
from art_sensreg.benchmark.config.threat_models import NORMS, Threat, Threats, allowed, pair_threats

__all__ = [
    "BUDGETS",
    "AuditRequest",
    "FILE_RECIPE",
    "NORMS",
    "OptimizationSettings",
    "RECIPES",
    "Recipe",
    "SuiteRequest",
    "SuiteSettings",
    "Threat",
    "Threats",
    "allowed",
    "pair_threats",
]
