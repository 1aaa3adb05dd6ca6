"""What the results say of each defence, over its seeds: the typed rows that tables, pages and exports are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median, quantiles, stdev
from typing import Protocol, TypeVar

from art_sensreg.benchmark.results.entries import AttackRecord, ClaimRecord, QueryCounts, WorstCase
from art_sensreg.benchmark.results.records import Results, RunRecord
from art_sensreg.utils.stats import clearly_above, share_half_width, wilson_interval

FAILED = {"not_applicable": "not applicable", "error": "failed"}
_NO_CLAIM = {"none made": "no claim", "not measured": "not measured"}
Size = tuple[str, float]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """
    The worst case of a defence at one size.

    :param shares: Share of each seed, in the order of the seeds: of those that have the most images.
    :param n: Images attacked.
    :param low: Lower end of Wilson's 95 % interval of the mean.
    :param high: Its upper end. Seeds share their test points: it is that of one run at the mean.
    :param gain: Difference from the worst case of `none` on the same images and seeds; None: it was not measured.
    :param gain_error: Half of the 95 % interval of the gain.
    :param partial: Attacks that were made on fewer images, with their number.
    :param failed: Attacks that failed: the worst case is over the others.
    """

    shares: tuple[float, ...]
    n: int
    low: float
    high: float
    gain: float | None = None
    gain_error: float = 0.0
    partial: Mapping[str, int] = field(default_factory=dict)
    failed: tuple[str, ...] = ()

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return fmean(self.shares)

    @property
    def spread(self) -> float | None:
        """The standard deviation over the seeds, of several."""
        return stdev(self.shares) if len(self.shares) > 1 else None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The time of a training step over that of a plain one: the median over repeats and seeds, and the quartiles."""

    median: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """
    A defence with all its seeds.

    :param runs: Its trained runs; none if it could not be trained.
    :param cells: Its worst cases by size.
    :param reason: Why it has no trained run, or which of its parts failed; empty if nothing did.
    :param shown: In words, what the runs show of its claim.
    :param verdicts: The verdicts of its audits.
    """

    defence: str
    runs: tuple[RunRecord, ...] = ()
    cells: Mapping[Size, Cell] = field(default_factory=dict)
    cost: Cost | None = None
    reason: str = ""
    shown: str = "-"
    verdicts: tuple[str, ...] = ()

    @property
    def clean(self) -> tuple[float, ...]:
        """The clean accuracy of each seed."""
        return tuple(run.clean_accuracy or 0.0 for run in self.runs)

    @property
    def seconds(self) -> float:
        """The mean time of training."""
        return fmean(run.train_seconds or 0.0 for run in self.runs)

    @property
    def distrusted(self) -> bool:
        """Whether an audit found a failure."""
        return any(verdict.startswith("do not trust") for verdict in self.verdicts)


def sizes_of(results: Results) -> list[Size]:
    """Every norm with each of its sizes."""
    return [(threat.norm, eps) for threat in results.config.threats for eps in threat.eps]


def trained_runs(results: Results) -> dict[str, list[RunRecord]]:
    """The runs that have a trained model, by defence."""
    groups: dict[str, list[RunRecord]] = {}
    for run in results.runs:
        if run.trained:
            groups.setdefault(run.defence, []).append(run)
    return groups


def summary_rows(results: Results) -> list[Row]:
    """One row for each defence: those that were trained, then those that could not be."""
    groups = trained_runs(results)
    rows = []
    for name, runs in groups.items():
        found = {size: _cell(runs, groups.get("none", ()), size) for size in sizes_of(results)}
        rows.append(
            Row(
                defence=name,
                runs=tuple(runs),
                cells={size: cell for size, cell in found.items() if cell is not None},
                cost=_cost(runs),
                reason="; ".join(dict.fromkeys(run.reason for run in runs if run.status == "error")),
                shown=claim_words(runs, results),
                verdicts=tuple(run.audit.verdict for run in runs if run.audit is not None),
            )
        )
    for status, words in FAILED.items():
        failed = {run.defence: run for run in reversed(results.runs) if run.status == status}
        for name, run in reversed(failed.items()):
            if name not in {row.defence for row in rows}:
                rows.append(Row(defence=name, reason=f"{words}: {run.reason}", shown=f"{words}: {run.reason}"))
    return rows


class _Counted(Protocol):
    """Anything with a number of images."""

    @property
    def n(self) -> int: ...


_Case = TypeVar("_Case", bound=_Counted)


def with_most_images(cases: Sequence[_Case]) -> list[_Case]:
    """
    Of the cases of several seeds, not all of which were attacked on equally many images yet, those with the most: a
    share of a hundred images does not count as much as one of a thousand, and the first hundred may be easier.
    """
    most = max((case.n for case in cases), default=0)
    return [case for case in cases if case.n == most]


def cases_at(runs: Sequence[RunRecord], size: Size) -> list[WorstCase]:
    """The worst cases of the seeds of a defence at one size: of those with the most images."""
    return with_most_images([case for run in runs for case in run.worst_case if case.threat == size])


def _cell(runs: Sequence[RunRecord], plain: Sequence[RunRecord], size: Size) -> Cell | None:
    kept = cases_at(runs, size)
    if not kept:
        return None
    cases = {run.seed: case for run in runs for case in run.worst_case if case.threat == size and case.n == kept[0].n}
    shares, n = tuple(case.robust_accuracy for case in cases.values()), next(iter(cases.values())).n
    mean = fmean(shares)
    low, high = wilson_interval(round(mean * n), n)
    gain, error = _gain(cases, {run.seed: case for run in plain for case in run.worst_case if case.threat == size})
    attacks = [attack for run in runs for attack in run.attacks if attack.threat == size]
    return Cell(
        shares=shares,
        n=n,
        low=low,
        high=high,
        gain=None if runs[0].defence == "none" else gain,
        gain_error=error,
        partial=_partial(attacks, n),
        failed=tuple(dict.fromkeys(attack.attack for attack in attacks if attack.status == "error")),
    )


def _gain(cases: Mapping[int, WorstCase], plain: Mapping[int, WorstCase]) -> tuple[float | None, float]:
    """The difference from `none`, and half of its interval, where both have the same seeds and images."""
    if any(seed not in plain or plain[seed].n != case.n for seed, case in cases.items()):
        return None, 0.0
    n = next(iter(cases.values())).n
    means = [fmean(found[seed].robust_accuracy for seed in cases) for found in (cases, plain)]
    return means[0] - means[1], share_half_width((means[0], n), (means[1], n))


def _partial(attacks: Sequence[AttackRecord], n: int) -> dict[str, int]:
    """Attacks that no view was made on all images with."""
    most: dict[str, int] = {}
    for attack in attacks:
        if attack.mask is not None:
            most[attack.attack] = max(attack.n, most.get(attack.attack, 0))
    return {name: count for name, count in most.items() if count < n}


def _cost(runs: Sequence[RunRecord]) -> Cost | None:
    medians = [run.step_cost for run in runs if run.step_cost is not None]
    if not medians:
        return None
    repeats = [ratio for run in runs for ratio in run.step_cost_repeats or ()]
    if len(repeats) < 2:
        return Cost(median=median(medians))
    low, _, high = quantiles(repeats, n=4, method="inclusive")
    return Cost(median=median(medians), low=low, high=high)


def claim_words(runs: Sequence[RunRecord], results: Results) -> str:
    """
    What the runs of several seeds show: `above none at 0.1, 0.2` where every one is, by more than the sampling error
    (95 %); `no claim`, `not measured`, `-`.
    """
    claims = [(run, run.claim) for run in runs if run.claim is not None]
    for status, words in _NO_CLAIM.items():
        if any(claim.status == status for _, claim in claims):
            return words
    if not claims:
        return "-"
    first = claims[0][1]
    if first.metric == "attack_queries":
        return _query_words([run for run, _ in claims])
    above = [_above(run, claim, results) for run, claim in claims]
    over = first.over or ("chance" if first.metric == "certified_accuracy" else "none")
    prefix = "certified " if first.metric == "certified_accuracy" else ""
    useless = next((claim.text for _, claim in claims if claim.status == "not met" and "constant" in claim.text), None)
    if useless is not None:
        return useless
    if any(sizes is None for sizes in above):  # an older file tells no sizes
        return f"{prefix}above {over} at one size at least"
    common = [size for size in above[0] or () if all(size in (sizes or ()) for sizes in above)]
    if not common:
        return f"NOT {prefix}above {over}"
    several = len({norm for norm, _ in common} | {threat.norm for threat in results.config.threats}) > 1
    return (
        f"{prefix}above {over} at {', '.join(f'{norm} {eps:.4g}' if several else f'{eps:.4g}' for norm, eps in common)}"
    )


def _above(run: RunRecord, claim: ClaimRecord, results: Results) -> list[Size] | None:
    """The sizes at which a run is above its rival; None: the file does not tell."""
    if claim.status != "met":
        return []
    if claim.above is not None:
        return [size.threat for size in claim.above]
    if claim.metric == "certified_accuracy":
        return None
    rival = results.run("none", run.seed)
    cases = {case.threat: case for case in rival.worst_case} if rival is not None else {}
    found = [case.threat for case in run.worst_case if case.threat in cases and _clear(case, cases[case.threat])]
    return found or None


def _clear(case: WorstCase, other: WorstCase) -> bool:
    return case.n == other.n and clearly_above((case.robust_accuracy, case.n), (other.robust_accuracy, other.n))


def _query_words(runs: Sequence[RunRecord]) -> str:
    counts = [run.queries for run in runs if isinstance(run.queries, QueryCounts)]
    if not counts:
        return "not measured"
    least = min(count.mean / max(count.undefended_mean, 1.0) for count in counts)
    met = all(run.claim is not None and run.claim.status == "met" for run in runs)
    return f"{'' if met else 'NOT clearly more: '}{least:.1f} times the queries of none"
