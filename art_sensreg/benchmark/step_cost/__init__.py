"""What `benchmarks/step_cost.py` measures: the cost of a training step against a lean loop in the same process."""
