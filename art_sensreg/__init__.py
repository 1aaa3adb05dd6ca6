"""Stochastic sensitivity and Jacobian regularisation for IBM's Adversarial Robustness Toolbox (ART)."""

from art_sensreg.auditing import audit
from art_sensreg.classifiers import SensRegClassifier
from art_sensreg.penalties import FisherRaoPenalty, JacobianPenalty, SensitivityPenalty
from art_sensreg.randomized import RandomizedClassifier
from art_sensreg.trainers import FIRETrainer, SensRegTrainer
from art_sensreg.training import TrainingConfig

__all__ = [
    "SensitivityPenalty",
    "JacobianPenalty",
    "FisherRaoPenalty",
    "SensRegClassifier",
    "RandomizedClassifier",
    "SensRegTrainer",
    "FIRETrainer",
    "TrainingConfig",
    "audit",
]
__version__ = "0.1.0"
