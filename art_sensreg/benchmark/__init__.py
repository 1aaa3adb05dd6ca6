"""The benchmark suite behind `benchmarks/run_art_suite.py`. Nothing in the package imports it."""
