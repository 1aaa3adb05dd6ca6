"""Whether a run supports the claim of its defence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from art_sensreg.benchmark.defences.claims import Claim
from art_sensreg.benchmark.defences.registry import DEFENCES
from art_sensreg.benchmark.engine.runtime import attempt
from art_sensreg.benchmark.results.entries import ClaimRecord, QueryCounts, WorstCase
from art_sensreg.benchmark.results.masks import worst_case
from art_sensreg.benchmark.results.records import RunRecord
from art_sensreg.benchmark.results.store import ResultStore
from art_sensreg.datasets import Dataset
from art_sensreg.utils.stats import share_half_width
from art_sensreg.utils.text import describe

# Fewest queries for each of the undefended model's that count as more: Square's own spread between runs is far smaller.
_MORE_QUERIES = 1.5
# A share, and the number of images that it is one of.
Share = tuple[float, int]


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
                record = _record(claim, "not measured", describe(error))
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
    """Judge a claim: `met`, `not met`, `none made` or `not measured`, with the figures."""
    judges: dict[str, Callable[[Measured], tuple[str, str]]] = {
        "robust_accuracy": _judge_robust,
        "certified_accuracy": _judge_certified,
        "attack_queries": _judge_queries,
    }
    judge = judges.get(claim.metric)
    return _record(claim, *(("none made", "nothing about evasion") if judge is None else judge(measured)))


def _record(claim: Claim, status: str, text: str) -> ClaimRecord:
    return ClaimRecord(metric=claim.metric, threat=claim.threat, status=status, text=text)


def _judge_robust(measured: Measured) -> tuple[str, str]:
    run = measured.run
    if measured.rival_cases is None:
        return "not measured", "the model that it is compared with is not in this run"
    failed = sorted({attack.attack for attack in run.attacks if attack.status == "error"})
    if failed:
        return "not measured", f"failed attacks: {', '.join(failed)}"
    others = {case.threat: case for case in measured.rival_cases}
    pairs = [(case, others[case.threat]) for case in run.worst_case if case.threat in others]
    if not pairs:
        return "not measured", "no attack in common with the model that it is compared with"
    met = any(_clearly_above((case.robust_accuracy, case.n), (other.robust_accuracy, other.n)) for case, other in pairs)
    # A model that always predicts the same class is robust, and useless.
    n = max(case.n for case, _ in pairs)
    clean = 1.0 if run.clean_accuracy is None else run.clean_accuracy
    if met and not _clearly_above((clean, n), (measured.chance, n)):
        return "not met", f"no better unattacked than a constant prediction ({100 * measured.chance:.1f} %)"
    text = "; ".join(
        f"{100 * case.robust_accuracy:.1f} % at {case.norm} {case.eps:.4g}, {measured.rival} "
        f"{100 * other.robust_accuracy:.1f} %"
        for case, other in pairs
    )
    return "met" if met else "not met", text


def _clearly_above(first: Share, second: Share) -> bool:
    """Whether one share is above another by more than the sampling error of both (95 %)."""
    # Of a share of 0 or 1 the estimate of the variance is 0; one image more or less is the least that counts.
    return bool(first[0] - second[0] > share_half_width(first, second) + 1 / first[1])


def _judge_certified(measured: Measured) -> tuple[str, str]:
    certified = measured.run.certified
    if not certified:
        return "not measured", "nothing was certified"
    text = "; ".join(f"{100 * case.accuracy:.1f} % certified at {case.norm} {case.eps:.4g}" for case in certified)
    return "met" if any(case.ci_low > measured.chance for case in certified) else "not met", text


def _judge_queries(measured: Measured) -> tuple[str, str]:
    queries = measured.run.queries
    if not isinstance(queries, QueryCounts):
        return "not measured", "no queries were counted"
    left, undefended = (queries.robust_accuracy, queries.n), (queries.undefended_robust_accuracy, queries.n)
    text = (
        f"{queries.attack} at {queries.norm} {queries.eps:.4g}: {queries.mean:.0f} queries an image, "
        f"{100 * left[0]:.1f} % left; undefended {queries.undefended_mean:.0f}, {100 * undefended[0]:.1f} %"
    )
    more = queries.mean / max(queries.undefended_mean, 1.0) >= _MORE_QUERIES
    return "met" if more or _clearly_above(left, undefended) else "not met", text
