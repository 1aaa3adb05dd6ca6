"""What keeps the numbers right: undone steps, non-finite values, micro-batches, means of losses, weight averages."""

__all__ = ["ema", "loss_checks", "loss_means", "micro_batches", "nonfinite", "rollback"]
