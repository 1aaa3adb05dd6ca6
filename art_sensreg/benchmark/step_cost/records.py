"""What `step-cost.json` holds: one frozen record for each variant of each model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np

from art_sensreg.benchmark.results.schema import (
    COUNT,
    FLAG,
    OPTION,
    PLAIN,
    SECONDS,
    TEXT,
    Record,
    checked,
    list_of,
    one_of,
    or_none,
    record,
    required,
    table_of,
)
from art_sensreg.benchmark.step_cost.variants import TARGETS

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class MemoryRise(Record):
    """How far memory rises in an epoch of so many steps."""

    steps: int = required(COUNT)
    megabytes: float = required(SECONDS)


@dataclass(frozen=True, kw_only=True)
class VariantRecord(Record):
    """
    The times of a variant.

    :param status: `ok`, `not_applicable` or `error`; `reason` says why.
    :param seconds: Time of each repeat.
    :param ratios: Each over the mean time of the plain loop just before and after.
    :param ratio: Their median; None: it was not timed.
    :param target_variant: The variant whose ratio is the target, if it is no number.
    :param met: Whether the ratio is at most the target; None: one of them is not known.
    """

    variant: str = required(TEXT)
    unit: str = required(TEXT)
    status: str = required(one_of("ok", "not_applicable", "error"), "ok")
    reason: str = required(TEXT, "")
    seconds: tuple[float, ...] = required(list_of(SECONDS), ())
    ratios: tuple[float, ...] = required(list_of(SECONDS), ())
    memory: tuple[MemoryRise, ...] = required(list_of(record(MemoryRise)), ())
    ratio: float | None = required(or_none(SECONDS), None)
    quartiles: tuple[float, ...] | None = required(or_none(list_of(SECONDS)), None)
    target_variant: str | None = required(or_none(TEXT), None)
    target: float | None = required(or_none(SECONDS), None)
    met: bool | None = required(or_none(FLAG), None)


@dataclass(frozen=True, kw_only=True)
class ModelRecord(Record):
    """The variants of a model, and how long a step or call of each of its plain loops took."""

    model: str = required(TEXT)
    epoch_steps: int = required(COUNT)
    lean_seconds: Mapping[str, float] = required(table_of(TEXT, SECONDS))
    variants: tuple[VariantRecord, ...] = required(list_of(record(VariantRecord)))


@dataclass(frozen=True, kw_only=True)
class StepCostResults(Record):
    """
    A whole run.

    :param config: Its settings.
    :param environment: Versions and machine.
    :param command: The command line that repeats it.
    """

    schema: int = required(checked(f"{SCHEMA}", lambda value: value == SCHEMA), SCHEMA)
    config: Mapping[str, Any] = required(table_of(TEXT, OPTION))
    environment: Mapping[str, Any] = required(table_of(TEXT, PLAIN))
    minutes: float = required(SECONDS)
    models: tuple[ModelRecord, ...] = required(list_of(record(ModelRecord)))
    command: str = required(TEXT)


def summarised(model: str, records: Iterable[VariantRecord]) -> tuple[VariantRecord, ...]:
    """The records of a model with median, quartiles, and whether the target is met."""
    measured = {}
    for timed in records:
        ratios = timed.ratios if timed.status == "ok" else ()
        low_high = tuple(np.quantile(ratios, [0.25, 0.75]).tolist()) if ratios else None
        measured[timed.variant] = replace(timed, ratio=median(ratios) if ratios else None, quartiles=low_high)
    return tuple(_judged(timed, TARGETS.get(name, {}).get(model), measured) for name, timed in measured.items())


def _judged(timed: VariantRecord, target: float | str | None, measured: Mapping[str, VariantRecord]) -> VariantRecord:
    """A record with its target: a number, or the ratio of another variant."""
    other = target if isinstance(target, str) else None
    bound = (measured[target].ratio if target in measured else None) if isinstance(target, str) else target
    met = None if timed.ratio is None or bound is None else timed.ratio <= bound
    return replace(timed, target_variant=other, target=bound, met=met)
