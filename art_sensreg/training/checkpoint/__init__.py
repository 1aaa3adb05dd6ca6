"""Checkpoints: the state of a run as named parts, sealed files that run no code, and which run they belong to."""

__all__ = [
    "bytecode",
    "codec",
    "comparison",
    "describe",
    "files",
    "fingerprint",
    "loading",
    "lock",
    "objective_state",
    "run",
    "state",
]
