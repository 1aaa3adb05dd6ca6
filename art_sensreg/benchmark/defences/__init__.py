"""The defences of the suite: the registry of them, and how to add one."""

from art_sensreg.benchmark.defences.factories import from_penalties, from_trainer
from art_sensreg.benchmark.defences.registry import DEFENCES, register
from art_sensreg.benchmark.defences.spec import Defence

__all__ = ["DEFENCES", "Defence", "from_penalties", "from_trainer", "register"]
