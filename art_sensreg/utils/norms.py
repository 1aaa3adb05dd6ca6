"""Names of the norms that perturbations are measured in, however they are written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from art_sensreg.utils.checks import number_of, shown

NORMS = ("linf", "l2", "l1")
_BY_NUMBER = {float("inf"): "linf", 2.0: "l2", 1.0: "l1"}
_SHOWN = {"linf": "linf (np.inf)", "l2": "l2 (2)", "l1": "l1 (1)"}


def norm_name(norm: Any, allowed: Sequence[str] = NORMS) -> str:
    """`linf`, `l2` or `l1` from any spelling of it, or from ART's: `np.inf`, `"inf"`, 2, 1 of any number type."""
    if isinstance(norm, str) and norm in allowed:
        return norm
    found = _from_text(norm) if isinstance(norm, str) else _from_number(norm)
    if found is None or found not in allowed:
        raise ValueError(f"`norm` is {shown(norm)}; expected one of {', '.join(_SHOWN[known] for known in allowed)}.")
    return found


def _from_text(norm: str) -> str | None:
    text = norm.strip().lower()
    known = f"l{text[1:].lstrip('-_')}" if text.startswith("l") else f"l{text}"
    return known if known in NORMS else None


def _from_number(norm: Any) -> str | None:
    number = number_of(norm)
    # A whole number as it is: one beyond every float is not infinite.
    return None if number is None else _BY_NUMBER.get(norm if type(norm) is int else number)
