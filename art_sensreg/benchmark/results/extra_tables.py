"""The tables that not every run has: union, both ways of attacking, certificates, queries, draws, claims, audits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from art_sensreg.auditing import AuditReport
from art_sensreg.benchmark.attacks import ATTACKS
from art_sensreg.benchmark.results.entries import AttackRecord, ExplanationRecord, QueryCounts
from art_sensreg.benchmark.results.records import Results, RunRecord
from art_sensreg.benchmark.results.summary import claim_words, sizes_of, trained_runs
from art_sensreg.benchmark.results.tables import percent, run_name, with_interval
from art_sensreg.benchmark.results.writing import plain
from art_sensreg.utils.tables import Table


def extra_tables(results: Results, wide: bool = True) -> list[tuple[str, Table]]:
    """The tables that not every run has, with their headings; those of many words only if `wide`."""
    tables = [
        ("Union over the norms: % of the images that no attack of any norm broke [95 % CI]", _union_table(results)),
        (
            "Pre- and postprocessing, attacked as ART does by default and adaptively: % left by ART's gradient attacks",
            _gap_table(results),
        ),
        ("Certified accuracy", _certified_table(results)),
        ("Random models: PGD that averages n draws, scored with fresh ones [95 % CI]", _curve_table(results)),
        ("Queries of a score-based attack", _queries_table(results)),
        (
            "How readable explanations are, by defence: mean ± standard deviation of the seeds",
            _explanations_by_defence(results),
        ),
        (
            "How readable explanations are: mean ± half of the 95 % interval (random models: fewer samples)",
            _explanation_table(results),
        ),
        *([("Claims", _claim_table(results))] if wide else []),
        ("Audit: can the attacks be believed?", _audit_table(results)),
    ]
    return [(heading, table) for heading, table in tables if table.rows]


def audit_details(results: Results) -> list[tuple[str, Table, list[str]]]:
    """For each audit: a heading, the table of its checks, and what to do about those that did not pass."""
    details = []
    for run in results.runs:
        if run.audit is not None and run.audit.checks:
            report = AuditReport.from_dict(plain(run.audit))
            details.append((f"Audit of {run_name(run, results)}: {report.verdict}", report.table(), report.advice()))
    return details


def _union_table(results: Results) -> Table:
    """One row per defence: the share of images that no attack broke in any of the norms."""
    groups = trained_runs(results) if len(results.config.threats) > 1 else {}
    sizes: list[Mapping[str, float]] = []
    for runs in groups.values():
        for case in (case for run in runs for case in run.union or ()):
            sizes += [case.eps] if case.eps not in sizes else []
    header = ["defence", *[", ".join(f"{norm} {eps:.4g}" for norm, eps in size.items()) for size in sizes]]
    rows = []
    for name, runs in groups.items():
        cases = [[case for run in runs for case in run.union or () if case.eps == size] for size in sizes]
        rows.append([name, *map(with_interval, cases)])
    return Table(header, rows if sizes else [])


def _gap_table(results: Results) -> Table:
    """One row per preprocessing defence and size: what ART's gradient attacks leave in either view."""
    rows = []
    names = [name for name in results.config.attacks if ATTACKS[name].art and not ATTACKS[name].black_box]
    for name, runs in trained_runs(results).items():
        for size in sizes_of(results):
            pairs = [_both_views(run, names, size) for run in runs]
            found = [pair for pair in pairs if pair is not None]
            if found:
                default, adaptive = zip(*found, strict=True)
                gap = [first - second for first, second in found]
                rows.append([name, f"{size[0]} {size[1]:.4g}", *map(percent, (default, adaptive, gap))])
    return Table(["defence", "size", "as ART attacks it: %", "adaptively: %", "gap: points"], rows)


def _both_views(run: RunRecord, names: Sequence[str], size: tuple[str, float]) -> tuple[float, float] | None:
    """The smallest accuracy after an attack that ran in both views on the same images, in each view."""
    found: dict[str, dict[str, AttackRecord]] = {"default": {}, "adaptive": {}}
    for attack in run.attacks:
        if attack.attack in names and attack.threat == size and attack.mask:
            found[attack.view][attack.attack] = attack
    both = found["default"].keys() & found["adaptive"].keys()
    n = max((found["default"][name].n for name in both), default=0)
    both = {name for name in both if found["default"][name].n == n}
    if not both:
        return None
    lowest = [min(attacks[name].robust_accuracy or 0.0 for name in both) for attacks in found.values()]
    return lowest[0], lowest[1]


def _audit_table(results: Results) -> Table:
    """The verdict of each audit; of many failed checks the first ones."""

    def short(verdict: str) -> str:
        parts = verdict.split(", ")
        return verdict if len(parts) < 4 else f"{', '.join(parts[:2])} and {len(parts) - 2} more"

    rows = [[run_name(run, results), short(run.audit.verdict)] for run in results.runs if run.audit is not None]
    return Table(["defence", "verdict"], rows, words=("verdict",))


def _claim_table(results: Results) -> Table:
    """One row per defence: whom it claims to stop, the metric for it, and what the run shows."""
    header = ["defence", "claims to stop", "metric", "measured", "shown"]
    rows = [
        [
            run_name(run, results),
            run.claim.threat,
            run.claim.metric.replace("_", " "),
            run.claim.text,
            claim_words([run], results),
        ]
        for run in results.runs
        if run.claim is not None
    ]
    return Table(header, rows, words=header)


def _certified_table(results: Results) -> Table:
    """One row per certifying defence and size."""
    rows = []
    for run in results.runs:
        for case in run.certified or ():
            rows.append([run_name(run, results), f"{case.norm} {case.eps:.4g}", with_interval([case]), str(case.n)])
    return Table(["defence", "size", "certified % [95 % CI]", "images"], rows)


def _queries_table(results: Results) -> Table:
    """One row per postprocessing defence: the queries of a score-based attack with and without it."""
    rows = []
    for run in results.runs:
        found = run.queries
        if isinstance(found, QueryCounts):
            size = f"{found.attack}, {found.norm} {found.eps:.4g}, {found.n} images"
            means = [f"{mean:.0f}" for mean in (found.undefended_mean, found.mean)]
            left = [percent([share]) for share in (found.undefended_robust_accuracy, found.robust_accuracy)]
            rows.append([run_name(run, results), size, *means, *left])
    header = ["defence", "attack", "queries an image, undefended", "defended", "left %, undefended", "left %, defended"]
    return Table(header, rows)


def _curve_table(results: Results) -> Table:
    """One row per random defence and size: robust accuracy against PGD by the draws that it averages."""
    rows = []
    draws = sorted({point.samples for run in results.runs for point in run.eot_curve or ()})
    for run in results.runs:
        curve = run.eot_curve or ()
        for size in dict.fromkeys(point.threat for point in curve):
            found = {point.samples: point for point in curve if point.threat == size}
            entries = [with_interval([found[n]]) if n in found else "-" for n in draws]
            rows.append([run_name(run, results), f"{size[0]} {size[1]:.4g}", *entries])
    return Table(["defence", "size", *[f"n = {n}: robust %" for n in draws]], rows)


def _explanation_table(results: Results) -> Table:
    """One row per defence: how readable its explanations are."""
    columns: dict[tuple[str, str], str] = {}
    rows = []
    scored = [run for run in results.runs if run.explanations]
    for run in scored:
        for score in run.explanations or ():
            arrow = "↑" if score.better == "higher" else "↓"
            metric, saliency = (name.replace("_", " ") for name in (score.metric, score.saliency))
            columns.setdefault((score.metric, score.saliency), f"{metric} ({saliency}) {arrow}")
    for run in scored:
        values = {(score.metric, score.saliency): score for score in run.explanations or ()}
        rows.append([run_name(run, results), *[_with_half_width(values.get(column)) for column in columns]])
    return Table(["defence", *columns.values()], rows)


def _explanations_by_defence(results: Results) -> Table:
    """One row per score of the explanations and one column per defence; empty where no defence has several seeds."""
    groups = dict[str, list[dict[tuple[str, str], ExplanationRecord]]]()
    for name, runs in trained_runs(results).items():
        for run in (run for run in runs if run.explanations):
            groups.setdefault(name, []).append({(one.metric, one.saliency): one for one in run.explanations or ()})
    if max(map(len, groups.values()), default=0) < 2:
        return Table([], [])
    found = {key: score.better for scored in groups.values() for scores in scored for key, score in scores.items()}
    rows = []
    for key, better in found.items():
        metric, saliency = (name.replace("_", " ") for name in key)
        values = [[scores[key].value for scores in scored if key in scores] for scored in groups.values()]
        rows.append([f"{metric} ({saliency})", better, *map(_with_spread, values)])
    header = ["score", "better", *(f"{name} ({len(scored)})" for name, scored in groups.items())]
    return Table(header, rows, words=("better",))


def _with_spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{fmean(values):.3g}" + (f" ± {stdev(values):.2g}" if len(values) > 1 else "")


def _with_half_width(score: ExplanationRecord | None) -> str:
    if score is None:
        return "-"
    known = score.ci_low is not None and score.ci_high is not None
    spread = f" ± {(score.ci_high - score.ci_low) / 2:.2g}" if known else ""  # type: ignore[operator]
    return f"{score.value:.3g}{spread}"
