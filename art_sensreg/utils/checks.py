"""Checks of arguments: one error that names the argument, what came and what was expected."""

from __future__ import annotations

import difflib
import inspect
import math
import operator
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 120


def shown(value: Any) -> str:
    """
    A value as error messages show it: its `repr`, shortened, on one line.

    :param value: Anything.
    :return: At most some 200 characters.

    Example:
    >>> from art_sensreg.utils import shown
    >>> shown(0.3), shown("x" * 200)[:4]
    ('0.3', "'xxx")
    """
    text = " ".join(_SHORT.repr(value).split())
    return text if len(text) <= 200 else f"{text[:120]}...{text[-40:]}"


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
    number = number_of(value)
    if number is None:
        raise TypeError(f"`{name}` is {shown(value)}; expected {expected}.")
    if not math.isfinite(number) or number < minimum or (exclusive and number == minimum):
        raise ValueError(f"`{name}` is {shown(value)}; expected {expected}.")


def number_of(value: Any) -> float | None:
    """
    A value as a float.

    :param value: Anything.
    :return: None if it is not one real number; infinite if it is a whole number beyond every float.

    Example:
    >>> from art_sensreg.utils.checks import number_of
    >>> number_of(np.float32(0.5)), number_of("0.5"), number_of(np.complex64(1)), number_of(True)
    (0.5, None, None, None)
    """
    if not _is_scalar(value, "__float__"):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    except OverflowError:
        return math.inf


def python_numbers(settings: Any) -> None:
    """
    Make every number among the fields of a dataclass one of Python: a fraction cannot be multiplied by a tensor.

    :param settings: The dataclass; may be frozen.

    Example:
    >>> from types import SimpleNamespace
    >>> from fractions import Fraction
    >>> from art_sensreg.utils.checks import python_numbers
    >>> settings = SimpleNamespace(eps=Fraction(1, 4), steps=np.int64(3), norm="linf")
    >>> python_numbers(settings)
    >>> settings
    namespace(eps=0.25, steps=3, norm='linf')
    """
    for name, value in list(vars(settings).items()):
        object.__setattr__(settings, name, python_number(value))


def python_number(value: Any) -> Any:
    """
    A number as Python's own.

    :param value: Anything.
    :return: An `int` or `float` of a number of any other kind; else the same.

    Example:
    >>> from art_sensreg.utils.checks import python_number
    >>> python_number(np.float64(0.5)), python_number(None)
    (0.5, None)
    """
    if type(value) in (bool, int, float) or number_of(value) is None:
        return value
    try:
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        return float(value)


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
    if number >= 2**63:  # beyond what arrays and tensors count with
        raise ValueError(f"`{name}` is {shown(value)}; expected a whole number below 2**63.")


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
    Refuse keyword arguments that a function does not know (ART's own `fit` ignores them).

    :param call: The call, for the message.
    :param unknown: The keyword arguments that were left over.
    :param known: The function, whose signature is read; or the names that it knows.
    :param error: What is raised.
    :raises TypeError: If any is left.

    Example:
    >>> from art_sensreg.utils.checks import check_known
    >>> def fit(x, nb_epochs=10, **kwargs):
    ...     check_known("fit()", kwargs, fit)
    >>> fit([], nb_epoch=3)
    Traceback (most recent call last):
    ...
    TypeError: fit() got an unknown keyword argument `nb_epoch`=3; expected x, nb_epochs. Did you mean `nb_epochs`?
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
    """
    The known names nearest to a wrong one, as the end of an error message.

    :param name: What came.
    :param known: The names allowed.
    :param count: Most names that are suggested.
    :return: `. Did you mean ...?`, or a full stop if none is near.

    Example:
    >>> from art_sensreg.utils.checks import did_you_mean
    >>> did_you_mean("art-mardy", ["none", "art-madry"]), did_you_mean("magic", ["none"])
    (". Did you mean 'art-madry'?", '.')
    """
    near = " or ".join(map(repr, _nearest(name, known, count)))
    return f". Did you mean {near}?" if near else "."


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
