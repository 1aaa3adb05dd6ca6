"""Warnings that name the line of the user's program, however deep in the package they arise."""

from __future__ import annotations

import sys
import warnings

_INSIDE = ("art_sensreg", "art", "contextlib")


def warn_caller(message: str) -> None:
    """
    Warn at the first line outside of this package and of ART, whose classes wrap their methods.

    :param message: The warning.

    Example:
    >>> from art_sensreg.utils import warn_caller
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     warn_caller("mind the gap")
    >>> str(caught[0].message), caught[0].category.__name__
    ('mind the gap', 'UserWarning')
    """
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in _INSIDE:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
