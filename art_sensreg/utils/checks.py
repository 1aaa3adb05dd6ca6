"""Checks of arguments: one error that names the argument, what came and what was expected."""

from __future__ import annotations

import difflib
import math
import operator
import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 120


def shown(value: Any) -> str:
    """
    A value as error messages show it: its `repr`, shortened, on one line.

    :param value: Anything.
    :return: At most some 120 characters.

    Example:
    >>> from art_sensreg.utils import shown
    >>> shown(0.3), shown("x" * 200)[:4]
    ('0.3', "'xxx")
    """
    return " ".join(_SHORT.repr(value).split())


def check_number(name: str, value: Any, minimum: float = -math.inf, exclusive: bool = False) -> None:
    """
    Check a real, finite number against a lower bound.

    :param name: Name of the argument, for the message.
    :param value: What came: a number of Python, numpy or torch.
    :param minimum: Lower bound; none by default.
    :param exclusive: Whether the bound itself is refused.
    :raises TypeError: If it is not one real number.
    :raises ValueError: If it is not finite, or too small.

    Example:
    >>> from art_sensreg.utils import check_number
    >>> check_number("eps", 0.3, minimum=0.0)
    >>> check_number("eps", "0.3", minimum=0.0)
    Traceback (most recent call last):
    ...
    TypeError: `eps` is '0.3'; expected a finite number of at least 0.
    """
    expected = "a finite number"
    if minimum > -math.inf:
        expected += f" {'above' if exclusive else 'of at least'} {minimum:g}"
    if not _is_scalar(value, "__float__"):
        raise TypeError(f"`{name}` is {shown(value)}; expected {expected}.")
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"`{name}` is {shown(value)}; expected {expected}.") from error
    except OverflowError:  # a whole number beyond every float
        number = math.inf
    if not math.isfinite(number) or number < minimum or (exclusive and number == minimum):
        raise ValueError(f"`{name}` is {shown(value)}; expected {expected}.")


def check_count(name: str, value: Any, minimum: int = 1) -> None:
    """
    Check a whole number against a lower bound.

    :param name: Name of the argument, for the message.
    :param value: What came: a whole number of Python, numpy or torch.
    :param minimum: Lower bound.
    :raises TypeError: If it is not one whole number.
    :raises ValueError: If it is too small.

    Example:
    >>> from art_sensreg.utils import check_count
    >>> check_count("max_iter", 1.5)
    Traceback (most recent call last):
    ...
    TypeError: `max_iter` is 1.5; expected a whole number of at least 1.
    """
    expected = f"a whole number of at least {minimum}"
    if not _is_scalar(value, "__index__"):
        raise TypeError(f"`{name}` is {shown(value)}; expected {expected}.")
    try:
        number = operator.index(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"`{name}` is {shown(value)}; expected {expected}.") from error
    if number < minimum:
        raise ValueError(f"`{name}` is {shown(value)}; expected {expected}.")


def check_seed(name: str, value: Any) -> None:
    """
    Check a seed: a whole number from 0 that fits into 63 bits.

    :param name: Name of the argument, for the message.
    :param value: What came.
    :raises TypeError: If it is not one whole number.
    :raises ValueError: If it is out of range.

    Example:
    >>> from art_sensreg.utils import check_seed
    >>> check_seed("seed", 0)
    """
    check_count(name, value, minimum=0)
    if operator.index(value) >= 2**63:
        raise ValueError(f"`{name}` is {shown(value)}; expected a whole number below 2**63.")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """
    Check an option against the list of its values.

    :param name: Name of the argument, for the message.
    :param value: What came.
    :param choices: The values allowed.
    :raises ValueError: If it is none of them; a misspelt one gets the nearest as a hint.

    Example:
    >>> from art_sensreg.utils import check_choice
    >>> check_choice("noise", "gausian", ("gaussian", "uniform"))
    Traceback (most recent call last):
    ...
    ValueError: `noise` is 'gausian'; expected one of gaussian, uniform. Did you mean 'gaussian'?
    """
    if isinstance(value, str):
        if value in choices:
            return
        near = difflib.get_close_matches(value, choices, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"`{name}` is {shown(value)}; expected one of {', '.join(choices)}.{hint}")
    raise ValueError(f"`{name}` is {shown(value)}; expected one of {', '.join(choices)}.")


def check_flag(name: str, value: Any) -> None:
    """
    Check a switch: True or False, and nothing that merely counts as one of them.

    :param name: Name of the argument, for the message.
    :param value: What came.
    :raises TypeError: If it is something else.

    Example:
    >>> from art_sensreg.utils import check_flag
    >>> check_flag("clip", "no")
    Traceback (most recent call last):
    ...
    TypeError: `clip` is 'no'; expected True or False.
    """
    if not isinstance(value, bool):
        raise TypeError(f"`{name}` is {shown(value)}; expected True or False.")


def _is_scalar(value: Any, converts: str) -> bool:
    """Whether a value is one number. Truth values and arrays of one entry convert to a number too, and are none."""
    boolean = isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool")
    return hasattr(value, converts) and not boolean and np.ndim(value) == 0
