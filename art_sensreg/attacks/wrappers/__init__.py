"""Modules around a model, so that every attack sees its preprocessing and its randomness."""

from art_sensreg.attacks.wrappers.bpda import BPDA
from art_sensreg.attacks.wrappers.eot import EOT
from art_sensreg.attacks.wrappers.torch_model import check_classifier, differentiable_model

__all__ = ["BPDA", "EOT", "check_classifier", "differentiable_model"]
