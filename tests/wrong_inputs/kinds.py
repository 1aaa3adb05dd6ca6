"""What can come in place of each kind of argument, and what an error has to say about it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

ANYTHING = [{}, [], object(), "x", b"x", 1j, torch.tensor([1.0, 2.0]), np.array([1, 2])]
# What converts to a number, or is one by the letter, and cannot be meant as one.
NO_NUMBER = [
    *(np.complex64(2 + 3j), torch.tensor(2 + 0j), np.array("2", dtype=object), np.array(2, dtype=object), np.str_("2")),
    *(np.timedelta64(2, "s"), np.datetime64("2020-01-01"), torch.tensor(2.0, device="meta")),
]
NUMBER = [None, True, "0.3", math.nan, math.inf, -math.inf, np.float32("nan"), [0.3], *NO_NUMBER, *ANYTHING]
POSITIVE = [*NUMBER, -1.0, 0, np.float64(-2)]
NOT_NEGATIVE = [*NUMBER, -1.0, -1e-9, torch.tensor(-1.0)]
SHARE = [*POSITIVE, 1.5]
COUNT = [
    None,
    True,
    0,
    -1,
    1.5,
    np.float64(3),
    "3",
    math.nan,
    math.inf,
    [3],
    torch.tensor(3.7),
    2**63,
    10**400,
    *NO_NUMBER,
    *ANYTHING,
]
SEED = [True, -1, 1.5, "x", [0], (1, 2), math.nan, torch.tensor(3.7), np.float32(1), {}, object(), b"x"]
FLAG = [None, 0, 1, "yes", "False", [True], np.array([True, False]), torch.tensor(1), {}, object()]
CHOICE = [None, 3, True, "misspelt", "", b"x", ["x"], {}, np.array(["x", "y"]), object()]
CALLBACKS = [None, 3, "print", [print], {}, [int], object()]
PAIR = [3, "xy", object(), (1,), (1, 2, 3), np.zeros((2, 3))]


def optional(values: list[Any]) -> list[Any]:
    """The same where None is allowed."""
    return [value for value in values if value is not None]


def refused(name: str, call: Callable[[], Any]) -> str:
    """
    What is wrong with how a call is refused; nothing if it is by one error of the right kind, on few lines, that names
    the argument, and says what came and what was expected.

    :param name: The argument.
    :param call: What must raise.
    :return: A text, empty if all is well.
    """
    try:
        call()
    except Exception as error:  # noqa: BLE001 - any other error is what is looked for
        message = str(error)
        if type(error) not in (ValueError, TypeError):
            return f"raised {error!r}"
        if f"`{name}" not in message or "expected" not in message:
            return f"raised {message!r}, which does not name `{name}` or what was expected"
        if len(message) > 600 or message.count("\n") > 1:
            return f"raised a message of {len(message)} letters: {message!r}"
        return ""
    return "was taken in silence"


def none_taken(name: str, values: Iterable[tuple[Any, Callable[[], Any]]]) -> None:
    """
    Each of some calls is refused.

    :param name: The argument.
    :param values: What is given for it, and the call that does so.
    """
    found = [(value, refused(name, call)) for value, call in values]
    wrong = [f"{_short(value)} {text}" for value, text in found if text]
    assert not wrong, "\n".join(wrong)


def _short(value: Any) -> str:
    return repr(value)[:60]
