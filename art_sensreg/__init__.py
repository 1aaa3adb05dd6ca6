"""Stochastic sensitivity and Jacobian regularisation for IBM's Adversarial Robustness Toolbox (ART)."""

from art_sensreg import presets
from art_sensreg.auditing import audit
from art_sensreg.augmented_data import augmented
from art_sensreg.classifiers import SensRegClassifier
from art_sensreg.estimator import SensRegEstimator
from art_sensreg.penalties import (
    FisherRaoPenalty,
    GradientDiversityPenalty,
    JacobianPenalty,
    SensitivityPenalty,
)
from art_sensreg.preview import describe
from art_sensreg.randomization import randomize
from art_sensreg.randomized import RandomizedClassifier
from art_sensreg.trainers import FIRETrainer, GradDivTrainer, SensRegTrainer
from art_sensreg.training import Augmentation, TrainingConfig

__all__ = [
    "SensitivityPenalty",
    "JacobianPenalty",
    "FisherRaoPenalty",
    "GradientDiversityPenalty",
    "SensRegClassifier",
    "RandomizedClassifier",
    "SensRegTrainer",
    "FIRETrainer",
    "GradDivTrainer",
    "TrainingConfig",
    "Augmentation",
    "SensRegEstimator",
    "audit",
    "augmented",
    "describe",
    "presets",
    "randomize",
]
__version__ = "0.1.0"
