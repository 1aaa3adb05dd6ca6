"""What is asked of a run: its settings, and what the attacker may do."""
