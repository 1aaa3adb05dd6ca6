"""Checks of arguments: an error names the argument, the value received and what was expected."""

from __future__ import annotations

import difflib
import inspect
import math
import operator
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 120


def shown(value: Any) -> str:
    """A value as error messages show it: its `repr` on one line, shortened to about 200 characters."""
    text = " ".join(_SHORT.repr(value).split())
    return text if len(text) <= 200 else f"{text[:120]}...{text[-40:]}"


def check_number(
    name: str,
    value: Any,
    minimum: float = -math.inf,
    exclusive: bool = False,
    maximum: float = math.inf,
    below: bool = False,
) -> None:
    """
    Check a real, finite number, of Python, numpy or torch, against bounds.

    `exclusive` refuses the lower bound itself, `below` the upper one. `TypeError` if it is not one real number,
    `ValueError` if it is not finite, or out of bounds.
    """
    bounds = []
    if minimum > -math.inf:
        bounds.append(f"{'above' if exclusive else 'of at least'} {minimum:g}")
    if maximum < math.inf:
        bounds.append(f"{'below' if below else 'of at most'} {maximum:g}")
    if len(bounds) == 2 and not (exclusive or below):
        bounds = [f"from {minimum:g} to {maximum:g}"]
    expected = " ".join(["a finite number", " and ".join(bounds)]).rstrip()
    number = number_of(value)
    if number is None:
        raise TypeError(f"`{name}` is {shown(value)}; expected {expected}.")
    too_small = number < minimum or (exclusive and number == minimum)
    too_large = number > maximum or (below and number == maximum)
    if not math.isfinite(number) or too_small or too_large:
        raise ValueError(f"`{name}` is {shown(value)}; expected {expected}.")


def number_of(value: Any) -> float | None:
    """A value as a float: None if it is not one real number; infinite if it is beyond every float."""
    if not _is_scalar(value, "__float__"):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    except OverflowError:
        return math.inf


def python_numbers(settings: Any) -> None:
    """Convert the numbers among the fields of a dataclass to Python's: a fraction cannot be multiplied by a tensor."""
    for name, value in list(vars(settings).items()):
        object.__setattr__(settings, name, python_number(value))


def python_number(value: Any) -> Any:
    """A number of any kind as an `int` or `float` of Python; anything else as it is."""
    if type(value) in (bool, int, float) or number_of(value) is None:
        return value
    try:
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        return float(value)


def check_count(name: str, value: Any, minimum: int = 1) -> None:
    """
    Check a whole number, of Python, numpy or torch, against a lower bound.

    `TypeError` if it is not one whole number, `ValueError` if it is too small, or beyond what arrays count with.
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
    if number >= 2**63:  # beyond what arrays and tensors count with
        raise ValueError(f"`{name}` is {shown(value)}; expected a whole number below 2**63.")


def check_seed(name: str, value: Any) -> None:
    """Check a seed: a whole number from 0 that fits into 63 bits."""
    check_count(name, value, minimum=0)


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Check an option against the list of its values; the `ValueError` names the nearest one."""
    if not isinstance(value, str) or value not in choices:
        hint = did_you_mean(value, choices, count=1) if isinstance(value, str) else "."
        raise ValueError(f"`{name}` is {shown(value)}; expected one of {', '.join(choices)}{hint}")


def check_known(
    call: str,
    unknown: Mapping[str, Any],
    known: Callable[..., Any] | Iterable[str],
    error: type[Exception] = TypeError,
) -> None:
    """
    Refuse keyword arguments that were left over, as a function does not know them (ART's own `fit` ignores them).

    The error names the first of them, and those that are known: of a function its signature, or a list of names.
    """
    if unknown:
        name, value = next(iter(unknown.items()))
        names = _keywords(known) if callable(known) else list(known)
        near = [f"`{other}`" for other in _nearest(name, names, count=1)]
        raise error(
            f"{call} got an unknown keyword argument `{name}`={shown(value)}; expected {', '.join(names)}."
            + (f" Did you mean {near[0]}?" if near else "")
        )


def did_you_mean(name: Any, known: Iterable[str], count: int = 3) -> str:
    """The known names nearest to a wrong one, as the end of an error message: a full stop if there is none."""
    near = " or ".join(map(repr, _nearest(name, known, count)))
    return f". Did you mean {near}?" if near else "."


def check_flag(name: str, value: Any) -> None:
    """Check a switch: True or False, and nothing that merely counts as one of them."""
    if not isinstance(value, bool):
        raise TypeError(f"`{name}` is {shown(value)}; expected True or False.")


def _keywords(function: Callable[..., Any]) -> list[str]:
    """The parameters that a function takes by name."""
    parameters = inspect.signature(function).parameters.values()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [parameter.name for parameter in parameters if parameter.kind in named and parameter.name != "self"]


def _nearest(name: Any, known: Iterable[str], count: int) -> list[str]:
    """The names nearest to a wrong one, whatever its case; "_" and "-" are the same."""
    by_key = {other.lower().replace("_", "-"): other for other in known}
    wanted = str(name)[:100].lower().replace("_", "-")
    return [by_key[key] for key in difflib.get_close_matches(wanted, by_key, n=count)]


def _is_scalar(value: Any, converts: str) -> bool:
    """Whether a value is one number. Truth values, text and arrays of one entry convert to one too, and are none."""
    dtype = getattr(value, "dtype", None)
    if isinstance(dtype, np.dtype):  # an array of objects may hold text, a complex number loses its imaginary part
        real = dtype.kind in "iuf"
    else:
        real = not isinstance(value, bool) and not re.search("bool|complex", str(dtype))
    return real and hasattr(value, converts) and np.ndim(value) == 0


def optional_module(name: str, install: str | None = None) -> Any:
    """Import a module that only its users need; an ImportError says what to install: by default its package."""
    try:
        return import_module(name)
    except ImportError as error:
        package = (error.name or name).partition(".")[0]
        raise ImportError(f"{package} is missing: pip install {install or package}") from error
