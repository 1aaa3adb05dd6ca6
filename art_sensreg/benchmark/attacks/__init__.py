"""The attacks of the suite by name, and how each is made."""

from art_sensreg.benchmark.attacks.registry import ATTACKS, Attack

__all__ = ["ATTACKS", "Attack"]
