"""Adversarial training to combine with the penalties: `SensRegTrainer(..., adversary=...)`. Pure PyTorch."""

from art_sensreg.adversaries.base import Adversary
from art_sensreg.adversaries.iterative import PGD, TRADES
from art_sensreg.adversaries.one_step import FGSMRS, NFGSM

__all__ = ["FGSMRS", "NFGSM", "PGD", "TRADES", "Adversary"]
