"""What ART lacks for adaptive evaluation: BPDA and EOT as modules, the official AutoAttack, and adaptive attacks."""

from art_sensreg.attacks.autoattack.attack import OfficialAutoAttack
from art_sensreg.attacks.far_starts import FarStartsAttack
from art_sensreg.attacks.hidden_distance import HiddenDistanceAttack
from art_sensreg.attacks.kitchen_sink import KitchenSinkAttack
from art_sensreg.attacks.projected_ascent import ProjectedAscent
from art_sensreg.attacks.scaled_logits import ScaledLogitsAttack
from art_sensreg.attacks.targeted_margin import TargetedMarginAttack
from art_sensreg.attacks.transfer import TransferAttack
from art_sensreg.attacks.wrappers.bpda import BPDA
from art_sensreg.attacks.wrappers.eot import EOT
from art_sensreg.attacks.wrappers.torch_model import differentiable_model

__all__ = [
    "BPDA",
    "EOT",
    "FarStartsAttack",
    "HiddenDistanceAttack",
    "KitchenSinkAttack",
    "OfficialAutoAttack",
    "ProjectedAscent",
    "ScaledLogitsAttack",
    "TargetedMarginAttack",
    "TransferAttack",
    "differentiable_model",
]
