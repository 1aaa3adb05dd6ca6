"""Adversarial training that combines with the penalties, `SensRegTrainer(..., adversary=...)`; torch only."""

from art_sensreg.adversaries.base import Adversary
from art_sensreg.adversaries.carried import CarriedAdversary
from art_sensreg.adversaries.free import Free
from art_sensreg.adversaries.iterative import PGD, TRADES
from art_sensreg.adversaries.nuclear import NuAT
from art_sensreg.adversaries.one_step import FGSMRS, NFGSM
from art_sensreg.adversaries.prior_guided import FGSMPGI

__all__ = ["FGSMPGI", "FGSMRS", "NFGSM", "PGD", "TRADES", "Adversary", "CarriedAdversary", "Free", "NuAT"]
