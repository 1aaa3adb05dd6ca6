"""The results of the suite: one frozen record for each run, and all of them together."""

# ruff: noqa: RUF009 - `required` and `optional` make fields
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from art_sensreg.benchmark.config.settings import SuiteSettings
from art_sensreg.benchmark.results.entries import (
    EXAMPLES,
    AttackKey,
    AttackRecord,
    AuditRecord,
    CertifiedRecord,
    ClaimRecord,
    CurvePoint,
    ExplanationRecord,
    NoiseRecord,
    NotCounted,
    QueryCounts,
    UnionCase,
    WorstCase,
)
from art_sensreg.benchmark.results.schema import (
    FLAG,
    NAME,
    NUMBER,
    SECONDS,
    SHARE,
    TEXT,
    WHOLE,
    Record,
    list_of,
    one_of,
    optional,
    or_none,
    record,
    required,
    table_of,
)
from art_sensreg.utils.text import error_text


def _queries(value: Any, place: str) -> QueryCounts | NotCounted:
    return NotCounted() if value == {} else record(QueryCounts)(value, place)


@dataclass(frozen=True, kw_only=True)
class RunRecord(Record):
    """
    A defence trained with one seed, and what happened to it. What was not measured is None.

    :param status: `ok`, `not_applicable` (it cannot run here) or `error`; `reason` says why.
    :param clean_accuracy: Share of the test images that are classified correctly unattacked; None: it was not trained.
    :param step_cost: Time of a training step over that of a plain one: the median over repeats, timed in turn.
    :param step_cost_repeats: The same of each repeat.
    :param history: Of each epoch of training, the means of the loss and its terms, and the accuracy.
    :param examples: File of the first images before and after an attack.
    :param crashed: Whether training raised: a resumed run tries again.
    :param measure_error: What an evaluation beside the attacks raised.
    """

    defence: str = required(NAME)
    dataset: str = required(TEXT)
    seed: int = required(WHOLE)
    status: str = required(one_of("ok", "not_applicable", "error"), "ok")
    reason: str = required(TEXT, "")
    clean_accuracy: float | None = required(or_none(SHARE), None)
    train_seconds: float | None = required(or_none(SECONDS), None)
    step_cost: float | None = required(or_none(SECONDS), None)
    attacks: tuple[AttackRecord, ...] = required(list_of(record(AttackRecord)), ())
    worst_case: tuple[WorstCase, ...] = required(list_of(record(WorstCase)), ())
    step_cost_repeats: tuple[float, ...] | None = optional(list_of(SECONDS))
    history: tuple[Mapping[str, float], ...] | None = optional(list_of(table_of(TEXT, NUMBER)))
    examples: str | None = optional(EXAMPLES)
    crashed: bool | None = optional(FLAG)
    random_noise: tuple[NoiseRecord, ...] | None = optional(list_of(record(NoiseRecord)))
    certified: tuple[CertifiedRecord, ...] | None = optional(list_of(record(CertifiedRecord)))
    queries: QueryCounts | NotCounted | None = optional(_queries)
    eot_curve: tuple[CurvePoint, ...] | None = optional(list_of(record(CurvePoint)))
    explanations: tuple[ExplanationRecord, ...] | None = optional(list_of(record(ExplanationRecord)))
    union: tuple[UnionCase, ...] | None = optional(list_of(record(UnionCase)))
    audit: AuditRecord | None = optional(record(AuditRecord))
    claim: ClaimRecord | None = optional(record(ClaimRecord))
    notes: tuple[str, ...] | None = optional(list_of(TEXT))
    measure_error: str | None = optional(TEXT)

    @property
    def key(self) -> tuple[str, int]:
        """Defence and seed: no two runs of a suite have the same."""
        return self.defence, self.seed

    @property
    def trained(self) -> bool:
        """Whether there is a trained model."""
        return self.clean_accuracy is not None

    def attack(self, key: AttackKey) -> AttackRecord | None:
        """The record of an attack."""
        return next((attack for attack in self.attacks if attack.key == key), None)

    def with_attacks(self, attacks: Iterable[AttackRecord]) -> RunRecord:
        """The run with further attacks, in the place of those of the same key."""
        added = tuple(attacks)
        keys = {attack.key for attack in added}
        return replace(self, attacks=tuple(old for old in self.attacks if old.key not in keys) + added)

    def failed(self, doing: str, error: BaseException) -> RunRecord:
        """The run with a failure behind those that it has."""
        reasons = filter(None, [self.reason, f"{doing}: {error_text(error)}"])
        return replace(self, status="error", reason="; ".join(reasons))


@dataclass(frozen=True, kw_only=True)
class Results:
    """
    All that is stored of a run of the suite: the content of `results.json`.

    :param config: The settings.
    :param environment: Versions and machine.
    :param runs: One for each defence and seed.
    :param left_out: A line for each thing that was asked for and not done.
    :param commands: The commands that made them: the first run's and those of the runs that resumed it.
    """

    config: SuiteSettings
    environment: Mapping[str, Any]
    runs: tuple[RunRecord, ...] = ()
    left_out: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()

    def run(self, defence: str, seed: int) -> RunRecord | None:
        """The record of a run."""
        return next((run for run in self.runs if run.key == (defence, seed)), None)

    def with_run(self, run: RunRecord) -> Results:
        """The results with a run, in the place of the former one, in the order of the settings."""
        if self.run(*run.key) is not None:
            return replace(self, runs=tuple(run if other.key == run.key else other for other in self.runs))
        names = self.config.defences

        def place(one: RunRecord) -> tuple[int, int]:
            return one.seed, names.index(one.defence) if one.defence in names else len(names)

        return replace(self, runs=tuple(sorted([*self.runs, run], key=place)))
