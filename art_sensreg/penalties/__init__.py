"""Penalties in pure PyTorch: differentiable terms that are added to a loss. Nothing here knows of ART."""

from art_sensreg.penalties.fisher_rao import FisherRaoPenalty
from art_sensreg.penalties.gradient_diversity import GradientDiversityPenalty
from art_sensreg.penalties.jacobian import JacobianPenalty
from art_sensreg.penalties.sensitivity import SensitivityPenalty

__all__ = ["FisherRaoPenalty", "GradientDiversityPenalty", "JacobianPenalty", "SensitivityPenalty"]
