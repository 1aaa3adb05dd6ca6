"""The stages of a run: planned once, then trained, attacked, evaluated and stored."""

from art_sensreg.benchmark.engine.audit_run import AuditResult, run_audit
from art_sensreg.benchmark.engine.plan import SuitePlan, plan_suite, plan_training
from art_sensreg.benchmark.engine.suite import Suite, open_suite, run_suite

__all__ = ["AuditResult", "Suite", "SuitePlan", "open_suite", "plan_suite", "plan_training", "run_audit", "run_suite"]
