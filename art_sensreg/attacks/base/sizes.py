"""Perturbation sizes: numbers or fractions such as `8/255`, and the largest one that makes sense."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from art_sensreg.utils import check_number
from art_sensreg.utils.norms import norm_name

_FRACTION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*/\s*(\d+(?:\.\d+)?)\s*", re.ASCII)


def parse_size(name: str, value: Any) -> float:
    """
    Parse a size, given as a number or as text, as a finite number above 0.

    Example:
    >>> from art_sensreg.attacks.base.sizes import parse_size
    >>> round(parse_size("eps", "8/255"), 4), parse_size("eps", 0.1)
    (0.0314, 0.1)
    """
    if isinstance(value, str):
        fraction = _FRACTION.fullmatch(value)
        try:
            value = float(fraction[1]) / float(fraction[2]) if fraction else float(value)
        except (ValueError, ZeroDivisionError):
            raise TypeError(f"`{name}` is {value!r}; expected a number above 0, or a fraction such as 8/255.") from None
    check_number(name, value, minimum=0.0, exclusive=True)
    return float(value)


def diameter(norm: str, shape: tuple[int, ...], low: Any, high: Any) -> float:
    """The largest distance between two images of a shape with values from `low` to `high`, each broadcastable to it."""
    norm = norm_name(norm)
    width = np.broadcast_to(np.asarray(high, dtype=np.float64) - np.asarray(low, dtype=np.float64), shape)
    if norm == "linf":
        return float(width.max())
    return float(np.sqrt((width**2).sum()) if norm == "l2" else width.sum())


def check_size(name: str, eps: float, norm: str, shape: tuple[int, ...], low: Any = 0.0, high: Any = 1.0) -> None:
    """
    Refuse a size above the largest distance between two images: its units cannot be those of the images.

    Example:
    >>> from art_sensreg.attacks.base.sizes import check_size
    >>> check_size("eps", 8, "linf", (3, 32, 32))
    Traceback (most recent call last):
    ValueError: `eps` is 8; expected at most 1, the largest linf distance of images in [0, 1]: 8/255?
    """
    largest = diameter(norm, shape, low, high)
    if eps <= largest * (1 + 1e-6) or math.isnan(largest):
        return
    hint = f": {eps:g}/255?" if eps / 255 <= largest else ""
    ends = f"[{np.min(low):g}, {np.max(high):g}]"
    raise ValueError(
        f"`{name}` is {eps:g}; expected at most {largest:.4g}, the largest {norm} distance of images in {ends}{hint}"
    )
