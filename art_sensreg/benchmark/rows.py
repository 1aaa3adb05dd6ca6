"""The former place of `from_penalties` and `from_trainer`, for plugins; now `art_sensreg.benchmark.defences`."""

from art_sensreg.benchmark.defences import from_penalties, from_trainer

__all__ = ["from_penalties", "from_trainer"]
