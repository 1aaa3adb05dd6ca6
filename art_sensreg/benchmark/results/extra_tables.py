"""The tables that not every run has: certificates, queries, random models, explanations, claims, audits."""

from __future__ import annotations

from typing import Any

from art_sensreg.benchmark.results.tables import (
    audit_table,
    claim_mark,
    gap_table,
    percent,
    run_name,
    union_table,
    with_interval,
)
from art_sensreg.utils.tables import Table


def extra_tables(data: dict[str, Any], wide: bool = True) -> list[tuple[str, Table]]:
    """
    The tables that not every run has, with their headings.

    :param data: Content of `results.json`.
    :param wide: Whether tables of many words are wanted too, which no terminal is wide enough for.
    :return: Union over the norms, preprocessing defences attacked both ways, verdicts of the audits.
    """
    tables = [
        ("Union over the norms: % of the images that no attack of any norm broke [95 % CI]", union_table(data)),
        (
            "Pre- and postprocessing, attacked as ART does by default and adaptively: % left by ART's gradient attacks",
            gap_table(data),
        ),
        ("Certified accuracy", certified_table(data)),
        ("Random models: PGD that averages n draws, scored with fresh ones [95 % CI]", curve_table(data)),
        ("Queries of a score-based attack", queries_table(data)),
        (
            "How readable explanations are: mean ± half of the 95 % interval (random models: fewer samples)",
            explanation_table(data),
        ),
        *([("Claims", claim_table(data))] if wide else []),
        ("Audit: can the attacks be believed?", audit_table(data)),
    ]
    return [(heading, table) for heading, table in tables if table.rows]


def claim_table(data: dict[str, Any]) -> Table:
    """
    One row per defence: whom it claims to stop, the metric for it, and what the run shows.

    :param data: Content of `results.json`.
    :return: The table.
    """
    rows = [
        [
            run_name(run, data),
            run["claim"]["threat"],
            run["claim"]["metric"].replace("_", " "),
            run["claim"]["text"],
            claim_mark([run]),
        ]
        for run in data["runs"]
        if "claim" in run
    ]
    header = ["defence", "claims to stop", "metric", "measured", "claim"]
    return Table(header, rows, words=header)


def certified_table(data: dict[str, Any]) -> Table:
    """
    One row per certifying defence and size: certified accuracy.

    :param data: Content of `results.json`.
    :return: The table; without rows if nothing certifies.
    """
    rows = [
        [
            run_name(run, data),
            f"{case['norm']} {case['eps']:.4g}",
            with_interval([{**case, "robust_accuracy": case["accuracy"]}]),
            str(case["n"]),
        ]
        for run in data["runs"]
        for case in run.get("certified", [])
    ]
    return Table(["defence", "size", "certified % [95 % CI]", "images"], rows)


def queries_table(data: dict[str, Any]) -> Table:
    """
    One row per postprocessing defence: the queries of a score-based attack with and without it.

    :param data: Content of `results.json`.
    :return: The table; without rows if there is none.
    """
    rows = []
    for run in data["runs"]:
        found = run.get("queries")
        if found:
            size = f"{found['attack']}, {found['norm']} {found['eps']:.4g}, {found['n']} images"
            means = [f"{found[name]:.0f}" for name in ("undefended_mean", "mean")]
            left = [percent([found[name]]) for name in ("undefended_robust_accuracy", "robust_accuracy")]
            rows.append([run_name(run, data), size, *means, *left])
    header = ["defence", "attack", "queries an image, undefended", "defended", "left %, undefended", "left %, defended"]
    return Table(header, rows)


def curve_table(data: dict[str, Any]) -> Table:
    """
    One row per random defence and size: robust accuracy against PGD by the draws that it averages.

    :param data: Content of `results.json`.
    :return: The table; without rows if no defence is random.
    """
    rows = []
    draws = sorted({case["samples"] for run in data["runs"] for case in run.get("eot_curve", [])})
    for run in data["runs"]:
        curve = run.get("eot_curve", [])
        for norm, eps in dict.fromkeys((case["norm"], case["eps"]) for case in curve):
            found = {case["samples"]: case for case in curve if (case["norm"], case["eps"]) == (norm, eps)}
            cells = [with_interval([found[n]]) if n in found else "-" for n in draws]
            rows.append([run_name(run, data), f"{norm} {eps:.4g}", *cells])
    return Table(["defence", "size", *[f"n = {n}: robust %" for n in draws]], rows)


def explanation_table(data: dict[str, Any]) -> Table:
    """
    One row per defence: how readable its explanations are.

    :param data: Content of `results.json`.
    :return: The table; without rows if nothing was explained.
    """
    scored = [run for run in data["runs"] if run.get("explanations")]
    columns: dict[tuple[str, str], str] = {}
    for run in scored:
        for score in run["explanations"]:
            arrow = "↑" if score["better"] == "higher" else "↓"
            saliency = score["saliency"].replace("_", " ")
            columns.setdefault(_column(score), f"{score['metric'].replace('_', ' ')} ({saliency}) {arrow}")
    rows = []
    for run in scored:
        values = {_column(score): score for score in run["explanations"]}
        rows.append([run_name(run, data), *[_with_half_width(values.get(column)) for column in columns]])
    return Table(["defence", *columns.values()], rows)


def _column(score: dict[str, Any]) -> tuple[str, str]:
    return score["metric"], score["saliency"]


def _with_half_width(score: dict[str, Any] | None) -> str:
    if score is None:
        return "-"
    spread = "" if score["ci_high"] is None else f" ± {(score['ci_high'] - score['ci_low']) / 2:.2g}"
    return f"{score['value']:.3g}{spread}"
