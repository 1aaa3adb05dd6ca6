"""What ART lacks: BPDA and EOT as modules, the official AutoAttack, and attacks aimed at the penalties."""

from art_sensreg.attacks.ascent import ProjectedAscent
from art_sensreg.attacks.bpda import BPDA
from art_sensreg.attacks.views import differentiable_model

__all__ = ["BPDA", "ProjectedAscent", "differentiable_model"]
