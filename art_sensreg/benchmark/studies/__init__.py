"""What the smaller programs of `benchmarks/` do, one module for each: comparisons and measurements beside the suite."""

__all__ = ["adaptive", "choose_settings", "compare_defences", "graddiv", "scaling"]
