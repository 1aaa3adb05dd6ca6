"""Whether a run supports the claim of its defence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from art_sensreg.benchmark.defences.claims import Claim
from art_sensreg.benchmark.defences.registry import DEFENCES
from art_sensreg.benchmark.engine.runtime import attempt
from art_sensreg.benchmark.results.entries import AtSize, ClaimRecord, QueryCounts, WorstCase
from art_sensreg.benchmark.results.masks import worst_case
from art_sensreg.benchmark.results.records import RunRecord
from art_sensreg.benchmark.results.store import ResultStore
from art_sensreg.datasets import Dataset
from art_sensreg.utils.stats import clearly_above
from art_sensreg.utils.text import error_text

# Fewest queries for each of the undefended model's that count as more: Square's own spread between runs is far smaller.
_MORE_QUERIES = 1.5


@dataclass(frozen=True)
class Judgement:
    """What a run shows of a claim: its status, the figures, and the sizes at which it is above its rival."""

    status: str
    text: str
    above: tuple[AtSize, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Measured:
    """
    What a claim is judged by: the run; the worst cases of the rival at the same seed and on the same images (None: it
    was not trained); and the share of the most frequent class, which a constant prediction gets right, attacked or not.
    """

    run: RunRecord
    rival: str
    rival_cases: tuple[WorstCase, ...] | None
    chance: float


def judge_claims(store: ResultStore, dataset: Dataset) -> None:
    """Store of every trained defence whether the run shows what it claims."""
    for run in store.results.runs:
        if run.trained and run.defence in DEFENCES:
            claim = DEFENCES[run.defence].claim
            record, error = attempt(lambda run=run, claim=claim: judged(claim, _measured(store, dataset, run, claim)))  # type: ignore[misc]
            if error is not None:
                record = _record(claim, Judgement("not measured", error_text(error)))
            store.results = store.results.with_run(replace(run, claim=record))
    store.save()


def _measured(store: ResultStore, dataset: Dataset, run: RunRecord, claim: Claim) -> Measured:
    rival = store.results.run(claim.over, run.seed)
    cases = None
    if rival is not None and rival.trained:
        # Some defences are attacked on the first images only.
        same = [worst_case(store.out, rival, case.threat, case.n) for case in run.worst_case]
        cases = tuple(case for case in same if case is not None)
    n = max([case.n for case in run.certified or ()], default=len(dataset.y_test))
    return Measured(
        run=run, rival=claim.over, rival_cases=cases, chance=float(np.bincount(dataset.y_test[:n]).max() / n)
    )


def judged(claim: Claim, measured: Measured) -> ClaimRecord:
    """Judge a claim: `met`, `not met`, `none made` or `not measured`, with the figures and the sizes."""
    judges: dict[str, Callable[[Measured], Judgement]] = {
        "robust_accuracy": _judge_robust,
        "certified_accuracy": _judge_certified,
        "attack_queries": _judge_queries,
    }
    judge = judges.get(claim.metric)
    found = Judgement("none made", "nothing about evasion") if judge is None else judge(measured)
    return _record(claim, found)


def _record(claim: Claim, found: Judgement) -> ClaimRecord:
    return ClaimRecord(
        metric=claim.metric,
        threat=claim.threat,
        status=found.status,
        text=found.text,
        over="chance" if claim.metric == "certified_accuracy" else claim.over,
        above=found.above,
    )


def _judge_robust(measured: Measured) -> Judgement:
    run = measured.run
    if measured.rival_cases is None:
        return Judgement("not measured", "the model that it is compared with is not in this run")
    failed = sorted({attack.attack for attack in run.attacks if attack.status == "error"})
    if failed:
        return Judgement("not measured", f"failed attacks: {', '.join(failed)}")
    others = {case.threat: case for case in measured.rival_cases}
    pairs = [(case, others[case.threat]) for case in run.worst_case if case.threat in others]
    if not pairs:
        return Judgement("not measured", "no attack in common with the model that it is compared with")
    above = tuple(
        AtSize(norm=case.norm, eps=case.eps)
        for case, other in pairs
        if clearly_above((case.robust_accuracy, case.n), (other.robust_accuracy, other.n))
    )
    # A model that always predicts the same class is robust, and useless.
    n = max(case.n for case, _ in pairs)
    clean = 1.0 if run.clean_accuracy is None else run.clean_accuracy
    if above and not clearly_above((clean, n), (measured.chance, n)):
        return Judgement("not met", f"no better unattacked than a constant prediction ({100 * measured.chance:.1f} %)")
    text = "; ".join(
        f"{100 * case.robust_accuracy:.1f} % at {case.norm} {case.eps:.4g}, {measured.rival} "
        f"{100 * other.robust_accuracy:.1f} %"
        for case, other in pairs
    )
    return Judgement("met" if above else "not met", text, above)


def _judge_certified(measured: Measured) -> Judgement:
    certified = measured.run.certified
    if not certified:
        return Judgement("not measured", "nothing was certified")
    text = "; ".join(f"{100 * case.accuracy:.1f} % certified at {case.norm} {case.eps:.4g}" for case in certified)
    above = tuple(AtSize(norm=case.norm, eps=case.eps) for case in certified if case.ci_low > measured.chance)
    return Judgement("met" if above else "not met", text, above)


def _judge_queries(measured: Measured) -> Judgement:
    queries = measured.run.queries
    if not isinstance(queries, QueryCounts):
        return Judgement("not measured", "no queries were counted")
    left, undefended = (queries.robust_accuracy, queries.n), (queries.undefended_robust_accuracy, queries.n)
    text = (
        f"{queries.attack} at {queries.norm} {queries.eps:.4g}: {queries.mean:.0f} queries an image, "
        f"{100 * left[0]:.1f} % left; undefended {queries.undefended_mean:.0f}, {100 * undefended[0]:.1f} %"
    )
    more = queries.mean / max(queries.undefended_mean, 1.0) >= _MORE_QUERIES
    return Judgement("met" if more or clearly_above(left, undefended) else "not met", text)
