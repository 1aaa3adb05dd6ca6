"""Building blocks of attacks: projected ascent as a function, losses, balls of perturbations, checked inputs."""

from art_sensreg.attacks.base.ascent import AscentResult, Steps, ascend, loss_on_logits, value_and_grad
from art_sensreg.attacks.base.losses import LOSSES, margin
from art_sensreg.attacks.base.norms import Ball, perturbation_norm
from art_sensreg.attacks.base.predictions import labels_of, predicted_labels, predicted_scores
from art_sensreg.attacks.base.sizes import check_size, parse_size

__all__ = [
    "LOSSES",
    "AscentResult",
    "Ball",
    "Steps",
    "ascend",
    "check_size",
    "labels_of",
    "loss_on_logits",
    "margin",
    "parse_size",
    "perturbation_norm",
    "predicted_labels",
    "predicted_scores",
    "value_and_grad",
]
