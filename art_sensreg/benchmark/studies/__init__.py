"""What the smaller programs of `benchmarks/` do: comparisons and measurements beside the suite."""
