"""The attacks of the suite: their strength at each budget, and how to add one."""

from art_sensreg.benchmark.attacks.registry import ATTACKS, default_attacks, ordered, register_attack
from art_sensreg.benchmark.attacks.spec import AttackSpec

__all__ = ["ATTACKS", "AttackSpec", "default_attacks", "ordered", "register_attack"]
