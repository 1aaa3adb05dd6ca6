"""Names of the norms that perturbations are measured in, read from any of the ways in which they are written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

NORMS = ("linf", "l2", "l1")
_BY_NUMBER = {float("inf"): "linf", 2.0: "l2", 1.0: "l1"}
_SHOWN = {"linf": "linf (np.inf)", "l2": "l2 (2)", "l1": "l1 (1)"}


def norm_name(norm: Any, allowed: Sequence[str] = NORMS, name: str = "norm") -> str:
    """
    The name of a norm.

    :param norm: As in ART (`np.inf`, `"inf"`, 2, 1, of any number type), or `linf`, `l2`, `l1` in any case.
    :param allowed: The norms that can be had here.
    :param name: Name of the argument, for the message.
    :return: `linf`, `l2` or `l1`.
    :raises ValueError: If it is none of those allowed.

    Example:
    >>> from art_sensreg.norms import norm_name
    >>> norm_name(np.inf), norm_name("Linf"), norm_name(2.0)
    ('linf', 'linf', 'l2')
    """
    if isinstance(norm, str) and norm in allowed:
        return norm
    found = _from_text(norm) if isinstance(norm, str) else _from_number(norm)
    if found is None or found not in allowed:
        raise ValueError(f"`{name}` is {norm!r}; expected one of {', '.join(_SHOWN[known] for known in allowed)}.")
    return found


def _from_text(norm: str) -> str | None:
    text = norm.strip().lower().removeprefix("l").lstrip("-_")
    known = f"l{text}"
    return known if known in NORMS else None


def _from_number(norm: Any) -> str | None:
    if type(norm) in (int, float):
        return _BY_NUMBER.get(norm)
    scalar = isinstance(norm, (np.integer, np.floating, int, float)) or (
        isinstance(norm, (np.ndarray, torch.Tensor)) and norm.ndim == 0
    )
    if not scalar or isinstance(norm, bool) or str(getattr(norm, "dtype", "")).endswith("bool"):
        return None
    return _BY_NUMBER.get(float(norm))
