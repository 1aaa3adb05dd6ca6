"""What happens in a run: training, attacks, evaluations."""
