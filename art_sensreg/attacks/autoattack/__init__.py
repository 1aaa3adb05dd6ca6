"""The official AutoAttack, from the package pyautoattack."""

from art_sensreg.attacks.autoattack.attack import OfficialAutoAttack

__all__ = ["OfficialAutoAttack"]
