"""The list of checks: each a function of the evidence, with its source and what a failure means."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from art_sensreg.auditing.context import Evidence


@dataclass(frozen=True)
class Finding:
    """
    What a check measured. It passes if the value is not above the threshold.

    :param value: The measurement, None if there is none.
    :param threshold: Largest value that passes.
    :param note: Details, or why nothing was measured.
    :param applies: False if the question has no meaning for this model and these points.
    """

    value: float | None
    threshold: float | None
    note: str = ""
    applies: bool = True

    @property
    def status(self) -> str:
        """`PASS`, `FAIL`, `SKIP` or `N/A`; a value that is no number fails."""
        if not self.applies:
            return "N/A"
        if self.value is None or self.threshold is None:
            return "SKIP"
        return "PASS" if not math.isnan(self.value) and self.value <= self.threshold else "FAIL"


def skip(reason: str) -> Finding:
    """
    The finding of a check that something was not given for.

    :param reason: What was not given.
    :return: The finding, whose status is `SKIP`.

    Example:
    >>> from art_sensreg.auditing.registry import skip
    >>> skip("no twin was given.").status
    'SKIP'
    """
    return Finding(None, None, reason)


def not_applicable(reason: str) -> Finding:
    """
    The finding of a check whose question has no meaning for this model and these points.

    :param reason: Why it has none.
    :return: The finding, whose status is `N/A`.

    Example:
    >>> from art_sensreg.auditing.registry import not_applicable
    >>> not_applicable("the model is deterministic.").status
    'N/A'
    """
    return Finding(None, None, reason, applies=False)


# A condition under which a check does not apply: a function of the evidence that returns the reason, or None.
Exemption = Callable[["Evidence"], str | None]


@dataclass(frozen=True)
class CheckSpec:
    """
    A check of the list.

    :param name: Its name, that of the function.
    :param question: What it measures, in one line.
    :param source: Paper and section.
    :param meaning: What a failure means and what to try next.
    :param function: Function of the evidence.
    :param exempt: Conditions under which it does not apply, in the order in which they are asked.
    """

    name: str
    question: str
    source: str
    meaning: str
    function: Callable[[Evidence], Finding]
    exempt: tuple[Exemption, ...] = ()

    def made(self, evidence: Evidence) -> Finding:
        """
        Make the check, if it applies.

        :param evidence: What is looked at.
        :return: What was found.
        """
        reasons = (condition(evidence) for condition in self.exempt)
        reason = next((reason for reason in reasons if reason is not None), None)
        return self.function(evidence) if reason is None else not_applicable(reason)


CHECKS: dict[str, CheckSpec] = {}


def check(
    source: str, meaning: str, exempt: Sequence[Exemption] = ()
) -> Callable[[Callable[[Evidence], Finding]], Callable[[Evidence], Finding]]:
    """
    Put a function on the list of checks.

    :param source: Paper and section that ask for it.
    :param meaning: What a failure means and what to try next, one sentence.
    :param exempt: Conditions under which the check does not apply.
    :return: Decorator of a function of the evidence, whose name is the check's and whose docstring its question.

    Example:
    >>> from art_sensreg.auditing.registry import CHECKS
    >>> CHECKS["deterministic"].question
    'Largest difference of repeated outputs, over the scale of the outputs.'
    """

    def register(function: Callable[[Evidence], Finding]) -> Callable[[Evidence], Finding]:
        question = (function.__doc__ or "").strip()
        name = function.__name__
        CHECKS[name] = CheckSpec(name, question, source, meaning, function, tuple(exempt))
        return function

    return register
