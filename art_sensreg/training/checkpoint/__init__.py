"""Checkpoints: the state of a run as named parts, sealed files that run no code, and which run they belong to."""
