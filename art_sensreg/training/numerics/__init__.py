"""What keeps the numbers right: undone steps, non-finite values, micro-batches, means of losses, weight averages."""
