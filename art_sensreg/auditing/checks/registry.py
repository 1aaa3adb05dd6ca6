"""The list of checks: one spec for each, with its source, what a failure means and when it does not apply."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from art_sensreg.auditing.context import AuditContext


@dataclass(frozen=True)
class Finding:
    """
    What a check measured. It passes if the value does not exceed the threshold.

    :param value: The measurement, None if there is none.
    :param threshold: Largest value that passes.
    :param note: Details, or why nothing was measured.
    :param applies: False if the question does not apply to this model and these images.
    """

    value: float | None
    threshold: float | None
    note: str = ""
    applies: bool = True

    @property
    def status(self) -> str:
        """`PASS`, `FAIL`, `SKIP` or `N/A`; NaN fails."""
        if not self.applies:
            return "N/A"
        if self.value is None or self.threshold is None:
            return "SKIP"
        return "PASS" if not math.isnan(self.value) and self.value <= self.threshold else "FAIL"


def skip(reason: str) -> Finding:
    """
    The finding of a check that needs an input which was not given.

    :param reason: What was not given.
    :return: A finding whose status is `SKIP`.

    Example:
    >>> from art_sensreg.auditing import skip
    >>> skip("no twin was given.").status
    'SKIP'
    """
    return Finding(None, None, reason)


def not_applicable(reason: str) -> Finding:
    """
    The finding of a check that does not apply to this model and these images.

    :param reason: Why it does not apply.
    :return: A finding whose status is `N/A`.

    Example:
    >>> from art_sensreg.auditing import not_applicable
    >>> not_applicable("the model is deterministic.").status
    'N/A'
    """
    return Finding(None, None, reason, applies=False)


@dataclass(frozen=True)
class Exemption:
    """
    A condition under which a check does not apply.

    :param reason: What the report then says.
    :param holds: Whether the condition holds in a context.
    """

    reason: str
    holds: Callable[[AuditContext], bool]


@dataclass(frozen=True, kw_only=True)
class CheckSpec:
    """
    One check of the audit.

    :param name: Stable name, in snake_case.
    :param measures: What it measures, in one line.
    :param source: Paper and section that ask for it.
    :param meaning: What a failure means and what to try next.
    :param function: Function of the context that returns a finding.
    :param exemptions: When it does not apply, tested in this order.
    """

    name: str
    measures: str
    source: str
    meaning: str
    function: Callable[[AuditContext], Finding]
    exemptions: tuple[Exemption, ...] = ()

    def run(self, context: AuditContext) -> Finding:
        """
        Run the check, if it applies.

        :param context: What is audited.
        :return: What was found.
        """
        exempt = next((exemption for exemption in self.exemptions if exemption.holds(context)), None)
        return self.function(context) if exempt is None else not_applicable(exempt.reason)


CHECKS: dict[str, CheckSpec] = {}


def register_check(
    *, source: str, meaning: str, exemptions: Sequence[Exemption] = ()
) -> Callable[[Callable[[AuditContext], Finding]], Callable[[AuditContext], Finding]]:
    """
    Decorate a function of an :class:`AuditContext` as a check, which every later audit runs.

    The name of the function is the check's, and its docstring says in one line what the check measures.

    :param source: Paper and section that ask for it.
    :param meaning: What a failure means and what to try next, in one sentence.
    :param exemptions: Conditions under which the check does not apply.
    :return: The decorator, which returns the function itself.
    :raises ValueError: If there is a check of that name, or the function has no docstring.

    Example:
    >>> import numpy as np
    >>> from torch import nn
    >>> from art_sensreg import SensRegClassifier, audit
    >>> from art_sensreg.auditing import CHECKS, AuditContext, Finding, register_check
    >>> @register_check(source="-", meaning="The model hardly ever answers some class: look at its training data.")
    ... def every_class_predicted(context: AuditContext) -> Finding:
    ...     '''Fraction of the classes that no image is assigned to.'''
    ...     outputs = context.model.outputs
    ...     return Finding(1 - len(np.unique(outputs.argmax(axis=1))) / outputs.shape[1], threshold=0.5)
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> classifier = SensRegClassifier(model, nn.CrossEntropyLoss(), (1, 2, 2), 2, clip_values=(0.0, 1.0))
    >>> x, y = np.random.default_rng(0).random((20, 1, 2, 2), dtype=np.float32), np.arange(20) % 2
    >>> audit(classifier, x, y, eps=0.1, checks=["every_class_predicted"]).verdict
    'no failure detected'
    >>> del CHECKS["every_class_predicted"]
    """

    def register(function: Callable[[AuditContext], Finding]) -> Callable[[AuditContext], Finding]:
        name, measures = function.__name__, " ".join((function.__doc__ or "").split())
        if name in CHECKS:
            raise ValueError(f"there is a check {name!r} already; expected a function of another name.")
        if not measures:
            raise ValueError(f"the check {name!r} has no docstring; expected one line that says what it measures.")
        CHECKS[name] = CheckSpec(
            name=name,
            measures=measures,
            source=source,
            meaning=meaning,
            function=function,
            exemptions=tuple(exemptions),
        )
        return function

    return register
