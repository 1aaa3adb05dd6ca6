"""Penalties in pure PyTorch: differentiable terms that are added to a loss. Independent of ART."""

from art_sensreg.penalties.base import FusedPenalty
from art_sensreg.penalties.effect import TappedLayer, TrainedBatch, penalty_effect, reaches_logits, tapped_layers
from art_sensreg.penalties.fisher_rao import FIRE_PRESETS, FisherRaoPenalty
from art_sensreg.penalties.gradient_alignment import GradientAlignmentPenalty
from art_sensreg.penalties.gradient_diversity import GradientDiversityPenalty, gradient_cosine
from art_sensreg.penalties.gradient_norm import GradientNormPenalty
from art_sensreg.penalties.jacobian import JacobianPenalty
from art_sensreg.penalties.logit_pairing import LogitPairingPenalty
from art_sensreg.penalties.sensitivity import SensitivityPenalty

__all__ = [
    "FIRE_PRESETS",
    "FisherRaoPenalty",
    "FusedPenalty",
    "GradientAlignmentPenalty",
    "GradientDiversityPenalty",
    "GradientNormPenalty",
    "JacobianPenalty",
    "LogitPairingPenalty",
    "SensitivityPenalty",
    "TappedLayer",
    "TrainedBatch",
    "gradient_cosine",
    "penalty_effect",
    "reaches_logits",
    "tapped_layers",
]
