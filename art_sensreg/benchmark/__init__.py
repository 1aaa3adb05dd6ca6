"""
The benchmark suite behind `benchmarks/run_art_suite.py`. Nothing else in the package imports it.

For Python callers: fill a `SuiteRequest`, and `run_suite` it.
"""

from art_sensreg.benchmark.config import SuiteRequest
from art_sensreg.benchmark.engine import run_suite
from art_sensreg.benchmark.results import Results, RunRecord, read_results

__all__ = ["Results", "RunRecord", "SuiteRequest", "read_results", "run_suite"]
