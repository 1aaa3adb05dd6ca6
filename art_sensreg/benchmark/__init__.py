"""
The benchmark suite behind `benchmarks/run_art_suite.py`. Nothing else in the package imports it.

For Python callers: fill a `SuiteRequest`, and `run_suite` it.
"""

from art_sensreg.benchmark.config.request import SuiteRequest
from art_sensreg.benchmark.engine.suite import run_suite

__all__ = ["SuiteRequest", "run_suite"]
