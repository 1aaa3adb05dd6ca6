"""Checkpoints: what a run is made of, its files, and which run they belong to."""
