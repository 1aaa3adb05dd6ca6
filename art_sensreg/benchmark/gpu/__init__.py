"""What a machine with a GPU measures once: `benchmarks/gpu.py`."""
