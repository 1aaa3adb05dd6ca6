"""Warnings that name the line of the user's program, however deep in the package they arise."""

from __future__ import annotations

import sys
import warnings

_INSIDE = ("art_sensreg", "art", "contextlib")


def warn_caller(message: str) -> None:
    """Warn at the first line outside this package and ART, whose classes wrap their methods."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in _INSIDE:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
