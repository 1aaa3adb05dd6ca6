"""The measurements of a run as they are stored: one frozen dataclass each."""

# ruff: noqa: RUF009 - `required` and `optional` make fields
from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from art_sensreg.auditing.report import STATUSES
from art_sensreg.benchmark.attacks import ATTACKS
from art_sensreg.benchmark.config.threat_models import NORMS
from art_sensreg.benchmark.results.schema import (
    COUNT,
    NAME,
    NUMBER,
    PLAIN,
    POSITIVE,
    SECONDS,
    SHARE,
    TEXT,
    WHOLE,
    Record,
    checked,
    list_of,
    one_of,
    optional,
    or_none,
    record,
    required,
    table_of,
)
from art_sensreg.utils.stats import wilson_interval

MASK_NAME = re.compile(r"masks/[A-Za-z0-9.+_-]{1,240}\.npz")
EXAMPLES_NAME = re.compile(r"examples/[A-Za-z0-9.+_-]{1,240}\.npz")
VIEWS = ("default", "adaptive")
AttackKey = tuple[str, str, float, str]

EXAMPLES = checked(
    "a file in examples/", lambda value: isinstance(value, str) and EXAMPLES_NAME.fullmatch(value) is not None
)
_NORM = one_of(*NORMS)
_MASK = checked("a file in masks/", lambda value: isinstance(value, str) and MASK_NAME.fullmatch(value) is not None)
ATTACK_NAME = checked(
    "the name of an attack",
    lambda value: isinstance(value, str) and (value in ATTACKS or re.fullmatch(r"pgd-eot-\d{1,4}", value) is not None),
)


@dataclass(frozen=True, kw_only=True)
class RandomScores(Record):
    """Accuracies of a random model by one draw and by its mean prediction, and their spreads over the repeats."""

    single_draw: float | None = optional(or_none(NUMBER))
    single_draw_spread: float | None = optional(or_none(NUMBER))
    mean: float | None = optional(or_none(NUMBER))
    mean_spread: float | None = optional(or_none(NUMBER))
    repeats: int | None = optional(or_none(NUMBER))


@dataclass(frozen=True, kw_only=True)
class AttackRecord(Record):
    """
    One attack on one run at one size.

    :param view: `default`: through the defence as ART attacks it; `adaptive`: through BPDA and EOT, or underneath.
    :param robust_accuracy: Share of the `n` images that are still classified correctly; None if it did not run.
    :param seen: Images that it worked on: the others were lost before.
    :param mask: File of the outcome of each image; None if it did not run.
    :param reason: Why it did not run.
    :param surrogates: Defences whose models it transferred from.
    """

    attack: str = required(ATTACK_NAME)
    norm: str = required(_NORM)
    eps: float = required(POSITIVE)
    view: str = optional(one_of(*VIEWS), "default")
    status: str | None = optional(one_of("ok", "not_applicable", "error"))
    robust_accuracy: float | None = required(or_none(SHARE), None)
    n: int = required(WHOLE, 0)
    seen: int | None = optional(WHOLE)
    seconds: float = required(SECONDS, 0.0)
    mask: str | None = required(or_none(_MASK), None)
    reason: str | None = optional(TEXT)
    surrogates: tuple[str, ...] | None = optional(list_of(TEXT))
    random: RandomScores | None = optional(record(RandomScores))

    def __post_init__(self) -> None:
        if self.status is None:  # in older files
            object.__setattr__(self, "status", "ok" if self.mask else "error")

    @property
    def key(self) -> AttackKey:
        """Attack, norm, eps and view: no two of a run have the same."""
        return self.attack, self.norm, self.eps, self.view

    @property
    def threat(self) -> tuple[str, float]:
        """Norm and eps."""
        return self.norm, self.eps


@dataclass(frozen=True, kw_only=True)
class AtSize(Record):
    """What was measured at one size."""

    norm: str = required(_NORM)
    eps: float = required(POSITIVE)

    @property
    def threat(self) -> tuple[str, float]:
        """Norm and eps."""
        return self.norm, self.eps


@dataclass(frozen=True, kw_only=True)
class WorstCase(AtSize):
    """Share of the attacked images that no attack of a size broke, with Wilson's 95 % interval."""

    robust_accuracy: float = required(SHARE)
    ci_low: float = required(SHARE)
    ci_high: float = required(SHARE)
    n: int = required(COUNT)


@dataclass(frozen=True, kw_only=True)
class UnionCase(Record):
    """The worst case over several norms; `eps` has the size in each."""

    eps: Mapping[str, float] = required(table_of(_NORM, POSITIVE))
    robust_accuracy: float = required(SHARE)
    ci_low: float = required(SHARE)
    ci_high: float = required(SHARE)
    n: int = required(COUNT)


@dataclass(frozen=True, kw_only=True)
class NoiseRecord(AtSize):
    """Accuracy under random noise of a size, the mean over draws."""

    accuracy: float = required(SHARE)
    n: int = required(WHOLE)


@dataclass(frozen=True, kw_only=True)
class CurvePoint(AtSize):
    """Robust accuracy of a random model against PGD that averages `samples` draws."""

    samples: int = required(COUNT)
    robust_accuracy: float = required(SHARE)
    ci_low: float = required(SHARE)
    ci_high: float = required(SHARE)
    n: int = required(COUNT)


@dataclass(frozen=True, kw_only=True)
class CertifiedRecord(AtSize):
    """Share of the images that are provably correct within eps."""

    accuracy: float = required(SHARE)
    ci_low: float = required(SHARE)
    ci_high: float = required(SHARE)
    n: int = required(COUNT)

    @property
    def robust_accuracy(self) -> float:
        """The share, as other records call it."""
        return self.accuracy


@dataclass(frozen=True, kw_only=True)
class QueryCounts(Record):
    """Queries an image of a score-based attack, and what it leaves, with and without the defence."""

    attack: str = required(ATTACK_NAME)
    norm: str = required(_NORM)
    eps: float = required(POSITIVE)
    n: int = required(COUNT)
    steps: int = required(COUNT)
    mean: float = required(SECONDS)
    robust_accuracy: float = required(SHARE)
    undefended_mean: float = required(SECONDS)
    undefended_robust_accuracy: float = required(SHARE)


@dataclass(frozen=True, kw_only=True)
class NotCounted(Record):
    """Queries that could not be counted: an empty object."""


@dataclass(frozen=True, kw_only=True)
class ExplanationRecord(Record):
    """One score of how readable the explanations are."""

    metric: str = required(TEXT)
    saliency: str = required(TEXT)
    value: float = required(NUMBER)
    ci_low: float | None = required(or_none(NUMBER))
    ci_high: float | None = required(or_none(NUMBER))
    n: int = required(WHOLE)
    better: str = required(one_of("higher", "lower"))


@dataclass(frozen=True, kw_only=True)
class ClaimRecord(Record):
    """
    What a defence claims, and what the run shows of it.

    :param over: What it is compared with: a defence, or `chance`.
    :param above: The sizes at which it is above that, by more than the sampling error.
    """

    metric: str = required(TEXT)
    threat: str = required(TEXT)
    status: str = required(TEXT)
    text: str = required(TEXT)
    over: str | None = optional(TEXT)
    above: tuple[AtSize, ...] | None = optional(list_of(record(AtSize)))


@dataclass(frozen=True, kw_only=True)
class CheckRecord(Record):
    """The answer of one check of the audit."""

    name: str = required(NAME)
    status: str = required(one_of(*STATUSES))
    value: float | None = required(or_none(NUMBER))
    threshold: float | None = required(or_none(NUMBER))
    source: str = required(TEXT)
    meaning: str | None = optional(TEXT)
    note: str | None = optional(TEXT)
    seconds: float | None = optional(SECONDS)


@dataclass(frozen=True, kw_only=True)
class AuditRecord(Record):
    """The audit of a run; without checks, the verdict says why there is none."""

    verdict: str = required(TEXT)
    settings: Mapping[str, Any] | None = optional(table_of(TEXT, PLAIN))
    checks: tuple[CheckRecord, ...] = required(list_of(record(CheckRecord)))


def share_of(outcomes: np.ndarray) -> dict[str, Any]:
    """The share of True as records have it."""
    low, high = wilson_interval(int(outcomes.sum()), len(outcomes))
    return {"robust_accuracy": float(outcomes.mean()), "ci_low": low, "ci_high": high, "n": len(outcomes)}
