"""The list of checks: each a function of the evidence, with its source and what a failure means."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from art_sensreg.auditing.evidence import Evidence


@dataclass(frozen=True)
class Finding:
    """
    What a check measured. It passes if the value is not above the threshold.

    :param value: The measurement, None if the check was skipped.
    :param threshold: Largest value that passes.
    :param note: Details, or why it was skipped.
    """

    value: float | None
    threshold: float | None
    note: str = ""

    @property
    def status(self) -> str:
        """`PASS`, `FAIL` or `SKIP`; a value that is no number fails."""
        if self.value is None or self.threshold is None:
            return "SKIP"
        return "PASS" if not math.isnan(self.value) and self.value <= self.threshold else "FAIL"


def skip(reason: str) -> Finding:
    """
    A finding of nothing.

    :param reason: Why.
    :return: The finding, whose status is `SKIP`.

    Example:
    >>> from art_sensreg.auditing.registry import skip
    >>> skip("no twin was given.").status
    'SKIP'
    """
    return Finding(None, None, reason)


@dataclass(frozen=True)
class CheckSpec:
    """
    A check of the list.

    :param name: Its name, that of the function.
    :param question: What it measures, in one line.
    :param source: Paper and section.
    :param meaning: What a failure means and what to try next.
    :param function: Function of the evidence.
    """

    name: str
    question: str
    source: str
    meaning: str
    function: Callable[[Evidence], Finding]


CHECKS: dict[str, CheckSpec] = {}


def check(source: str, meaning: str) -> Callable[[Callable[[Evidence], Finding]], Callable[[Evidence], Finding]]:
    """
    Put a function on the list of checks.

    :param source: Paper and section that ask for it.
    :param meaning: What a failure means and what to try next, one sentence.
    :return: Decorator of a function of the evidence, whose name is the check's and whose docstring its question.

    Example:
    >>> from art_sensreg.auditing.registry import CHECKS
    >>> CHECKS["deterministic"].question
    'Largest difference of repeated outputs, over the scale of the outputs.'
    """

    def register(function: Callable[[Evidence], Finding]) -> Callable[[Evidence], Finding]:
        question = (function.__doc__ or "").strip()
        CHECKS[function.__name__] = CheckSpec(function.__name__, question, source, meaning, function)
        return function

    return register
