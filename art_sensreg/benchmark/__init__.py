"""
The benchmark suite behind `benchmarks/run_art_suite.py`. Nothing else in the package imports it.

From Python, pass a `SuiteRequest` to `run_suite`, or an `AuditRequest` to `run_audit`.
"""

from art_sensreg.benchmark.config import AuditRequest, SuiteRequest
from art_sensreg.benchmark.engine import run_audit, run_suite
from art_sensreg.benchmark.results import Results, RunRecord, read_results

__all__ = ["AuditRequest", "Results", "RunRecord", "SuiteRequest", "read_results", "run_audit", "run_suite"]
