"""What the page shows, in its order, and the page itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from art_sensreg.auditing import CHECKS, AuditReport
from art_sensreg.auditing.view import AuditView, audit_view, number_text
from art_sensreg.benchmark.config.settings import SALIENCY
from art_sensreg.benchmark.results.extra_tables import extra_tables
from art_sensreg.benchmark.results.merge import Merged, repeats_line, repeats_table, source_names
from art_sensreg.benchmark.results.page.charts import (
    MOST_NAMED,
    Chart,
    Line,
    cost_chart,
    history_lines,
    line_chart,
    robustness_lines,
)
from art_sensreg.benchmark.results.page.images import gallery, picture_of
from art_sensreg.benchmark.results.page.table import main_table
from art_sensreg.benchmark.results.page.verdict import Verdict, verdict_of
from art_sensreg.benchmark.results.records import Results
from art_sensreg.benchmark.results.summary import Row, Size, summary_rows, trained_runs
from art_sensreg.benchmark.results.tables import detail_tables, explanations, run_name
from art_sensreg.benchmark.results.writing import plain
from art_sensreg.utils.html import render
from art_sensreg.utils.tables import Table


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart with its heading and what it shows."""

    heading: str
    chart: Chart
    caption: str


def page_html(merged: Merged, title: str, notes: str) -> str:
    """
    The page of one or several runs.

    :param merged: Their results.
    :param title: Its heading.
    :param notes: A sentence on how the results were made.
    :return: HTML: one file that makes no request.
    """
    results = merged.results
    verdict = verdict_of(results)
    rows = [row for row in summary_rows(results) if row.runs]
    named = _named(rows, verdict)
    return render(
        "art_sensreg.benchmark.results.page/page.html",
        title=title,
        notes=notes,
        verdict=verdict,
        main=main_table(results, verdict.size),
        repeats=repeats_table(merged),
        agreement=repeats_line(merged),
        lines=explanations(results),
        cost=_cost_figure(rows, verdict.size),
        curves=_curves(results, rows, named),
        gallery=gallery(merged.sources),
        audits=_audits(results),
        more=_more_figures(results, rows, named),
        saliency=[found for source in merged.sources if (found := picture_of(source.folder / SALIENCY))],
        tables=_tables(results),
        machines=[
            (name, source.results.environment)
            for name, source in zip(source_names(merged.sources), merged.sources, strict=True)
        ],
        results=results,
        number=number_text,
    )


def _named(rows: Sequence[Row], verdict: Verdict) -> list[str]:
    """The defences whose curves have a colour: none, the best of each cost, then by worst case."""
    first = ["none"] if verdict.plain is not None else []
    first += [best.row.defence for best in verdict.best]
    others = sorted((row for row in rows if verdict.size in row.cells), key=lambda row: -row.cells[verdict.size].mean)
    return list(dict.fromkeys([*first, *(row.defence for row in others)]))[:MOST_NAMED]


def _cost_figure(rows: Sequence[Row], size: Size) -> Figure | None:
    timed = [row for row in rows if row.cost is not None and size in row.cells]
    if not timed:
        return None
    return Figure(
        heading="Robust accuracy against the cost of training",
        chart=cost_chart(rows, size, "cost"),
        caption="One dot for each seed, a cross if the audit failed. The line is the front: nothing above it is as "
        "cheap. Cost: the time of a training step over that of a plain cross-entropy step, timed in turn.",
    )


def _curves(results: Results, rows: Sequence[Row], named: Sequence[str]) -> list[Figure]:
    figures = []
    for threat in results.config.threats:
        lines = robustness_lines(rows, [(threat.norm, eps) for eps in threat.eps], results.config.test_size)
        if lines:
            axes = (f"eps ({threat.norm})", "worst case over the attacks, %")
            grey = "; grey: the others" if len(lines) > len(named) else ""
            figures.append(
                Figure(
                    heading=f"Robust accuracy against eps, {threat.norm}",
                    chart=line_chart(lines, named, axes, f"eps-{threat.norm}", percent=True),
                    caption=f"At 0 the clean accuracy. Bands: 95 % intervals{grey}.",
                )
            )
    return figures


def _more_figures(results: Results, rows: Sequence[Row], named: Sequence[str]) -> list[Figure]:
    """Training curves, and random models against the attacker's draws."""
    histories: dict[str, Sequence[Mapping[str, float]]] = {}
    plain_history = next((run.history for row in rows for run in row.runs if row.defence == "none"), None)
    for row in rows:
        if row.runs[0].history and (row.defence == "none" or row.runs[0].history != plain_history):
            histories[row.defence] = row.runs[0].history
    chosen = [name for name in named if name in histories]
    chosen = list(dict.fromkeys([*chosen, *histories]))[:MOST_NAMED]
    figures = []
    for entry, words, factor in (("loss", "training loss", 1.0), ("accuracy", "training accuracy, %", 100.0)):
        lines = history_lines(histories, entry, factor)
        if lines:
            chart = line_chart(lines, chosen, ("epoch", words), f"history-{entry}", percent=factor > 1)
            caption = "First seed, defences of this package; the loss includes the penalties."
            figures.append(Figure(heading=words.capitalize(), chart=chart, caption=caption))
    lines = _draw_lines(results)
    if lines:
        names = [line.name for line in lines][:MOST_NAMED]
        axes = ("draws that the attacker averages", "robust accuracy against PGD, %")
        chart = line_chart(lines, names, axes, "draws", percent=True)
        caption = "A random model is as robust as where its curve ends."
        figures.append(Figure(heading="Random models", chart=chart, caption=caption))
    return figures


def _draw_lines(results: Results) -> list[Line]:
    lines = []
    for name, runs in trained_runs(results).items():
        curve = [point for run in runs for point in run.eot_curve or ()]
        for eps in sorted({point.eps for point in curve}):
            found = {n: [p.robust_accuracy for p in curve if (p.eps, p.samples) == (eps, n)] for n in
                     sorted({point.samples for point in curve if point.eps == eps})}  # fmt: skip
            points = [(float(n), 100 * fmean(shares)) for n, shares in found.items()]
            lines.append(Line(name=f"{name}, {eps:.4g}", points=points))
    return lines


def _audits(results: Results) -> list[tuple[str, AuditView]]:
    audits = []
    for run in results.runs:
        if run.audit is not None:
            report = AuditReport.from_dict({"settings": {}, **plain(run.audit)})
            # Files of earlier versions do not say what a check measures.
            checks = [
                replace(check, measures=check.measures or (CHECKS[check.name].measures if check.name in CHECKS else ""))
                for check in report.checks
            ]
            audits.append((run_name(run, results), audit_view(run.audit.verdict, report.settings, checks)))
    return audits


def _tables(results: Results) -> list[tuple[str, Table]]:
    """The audit has a part of its own."""
    extra = [(heading, table) for heading, table in extra_tables(results) if not heading.startswith("Audit:")]
    return [*extra, *detail_tables(results)]
