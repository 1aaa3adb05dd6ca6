"""Attacks whose settings are checked however they are set: in the constructor, by `set_params`, or as attributes."""

from __future__ import annotations

from typing import Any

from art.attacks.attack import EvasionAttack

from art_sensreg.art_bridge.checks import check_known


class CheckedAttack(EvasionAttack):
    """
    An ART attack that checks and normalises a setting whenever it changes; a refused change leaves it as it was.

    Subclasses name their settings in `attack_params`, check and normalise them in `_check_params`, and end their
    constructor with `_settle`.
    """

    _settled = False

    def set_params(self, **kwargs: Any) -> None:
        """
        Set several settings together.

        :param kwargs: Settings by name.
        :raises ValueError: If there is no such setting, or one is out of range; nothing has been changed then.
        :raises TypeError: If one is of a wrong type.
        """
        unknown = [name for name in kwargs if name not in self.attack_params]
        if unknown:
            check_known("set_params", {unknown[0]: kwargs[unknown[0]]}, ", ".join(self.attack_params), ValueError)
        self._change(kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        if self._settled and name in self.attack_params:
            self._change({name: value})
        else:
            super().__setattr__(name, value)

    def _settle(self) -> None:
        """Check all settings; from now on every change is checked."""
        self._check_params()
        super().__setattr__("_settled", True)

    def _change(self, values: dict[str, Any]) -> None:
        before = dict(self.__dict__)
        self.__dict__["_settled"] = False
        try:
            for name, value in values.items():
                super().__setattr__(name, value)
            self._check_params()
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        self.__dict__["_settled"] = before.get("_settled", False)
