"""What ART lacks: BPDA and EOT as modules, the official AutoAttack, and attacks aimed at the penalties."""

from art_sensreg.attacks.aimed import FarStartsAttack, ScaledLogitsAttack, TargetedMarginAttack
from art_sensreg.attacks.autoattack.attack import OfficialAutoAttack
from art_sensreg.attacks.bpda import BPDA
from art_sensreg.attacks.eot import EOT
from art_sensreg.attacks.hidden import HiddenDistanceAttack
from art_sensreg.attacks.kitchen_sink import KitchenSinkAttack
from art_sensreg.attacks.projected import ProjectedAscent
from art_sensreg.attacks.torch_model import differentiable_model
from art_sensreg.attacks.transfer import TransferAttack

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
