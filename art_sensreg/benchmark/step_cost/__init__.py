"""What `benchmarks/step_cost.py` measures: a training step against a plain PyTorch loop in the same process."""
