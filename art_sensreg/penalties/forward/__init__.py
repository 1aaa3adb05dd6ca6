"""How a batch of clean and noisy rows is stacked, passed through a model, and read."""
