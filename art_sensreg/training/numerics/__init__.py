"""What keeps the numbers of a training run right: rollback, non-finite values, means of losses, weight averaging."""
