"""The smaller programs of `benchmarks/`, one module each: comparisons and measurements in addition to the suite."""

__all__ = ["adaptive", "choose_settings", "compare_defences", "graddiv", "scaling"]
