"""An audit as a page shows it: verdict and scope, then what failed, and folded what passed or did not apply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

# The settings in the order of a page's head, with what they are called there; others follow.
_SCOPE = {
    "norm": "norm",
    "eps": "eps",
    "points": "points",
    "steps": "steps of the reference attack",
    "slack": "slack for the sampling error",
    "seed": "seed",
}


class Answer(Protocol):
    """What is shown of a check."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def status(self) -> str:
        """Its status."""

    @property
    def value(self) -> float | None:
        """What was measured."""

    @property
    def threshold(self) -> float | None:
        """What it was compared with."""

    @property
    def source(self) -> str:
        """The paper that asks for it."""

    @property
    def meaning(self) -> str:
        """What a failure means."""

    @property
    def measures(self) -> str:
        """What it measures."""

    @property
    def note(self) -> str:
        """Details."""

    @property
    def seconds(self) -> float:
        """How long it took."""


@dataclass(frozen=True, kw_only=True)
class AuditView:
    """
    What the templates show.

    :param verdict: The verdict.
    :param scope: Name and value of each setting.
    :param failed: The checks that failed or raised.
    :param passed: Those that passed.
    :param others: Those that were skipped or do not apply.
    """

    verdict: str
    scope: tuple[tuple[str, str], ...]
    failed: tuple[Answer, ...]
    passed: tuple[Answer, ...]
    others: tuple[Answer, ...]

    @property
    def trusted(self) -> bool:
        """Whether nothing failed."""
        return not self.failed


def audit_view(verdict: str, settings: Mapping[str, Any], checks: Sequence[Answer]) -> AuditView:
    """Sort the checks of an audit by what became of them."""
    known = [(label, number_text(settings[name])) for name, label in _SCOPE.items() if name in settings]
    more = [(name, number_text(value)) for name, value in settings.items() if name not in _SCOPE]
    return AuditView(
        verdict=verdict,
        scope=(*known, *more),
        failed=tuple(check for check in checks if check.status not in ("PASS", "SKIP", "N/A")),
        passed=tuple(check for check in checks if check.status == "PASS"),
        others=tuple(check for check in checks if check.status in ("SKIP", "N/A")),
    )


def number_text(value: Any) -> str:
    """A number to four digits, other things as they are, and a dash for what is not there."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
