"""The former place of `Quantise`, which notebooks import."""

from art_sensreg.benchmark.defences.from_art.preprocessing import Quantise

__all__ = ["Quantise"]
