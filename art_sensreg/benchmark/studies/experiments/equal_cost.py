"""Equal training cost: each defence at each budget, the table and the picture of what it reaches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from art_sensreg.benchmark.results.entries import UnionCase, WorstCase
from art_sensreg.benchmark.results.records import Results
from art_sensreg.benchmark.results.summary import with_most_images
from art_sensreg.benchmark.results.tables import shares_with_interval
from art_sensreg.benchmark.results.writing import json_text, save_picture, write_text
from art_sensreg.benchmark.studies.experiments.declaration import Experiment, Row
from art_sensreg.utils.stats import wilson_interval
from art_sensreg.utils.tables import Table


@dataclass(frozen=True, kw_only=True)
class Point:
    """
    A defence at a budget.

    :param defence: Name of its row.
    :param budget: Training cost allowed, in epochs of plain training.
    :param epochs: Epochs that this bought.
    :param cost: Training cost spent: epochs times the measured step cost.
    :param seeds: Seeds that are trained.
    :param clean: Clean accuracy, mean over the seeds.
    :param robust: Robust accuracy, mean over the seeds, by size (`linf 0.3`) or union of sizes.
    :param by_seed: The same of each seed: of those that have the most images there.
    :param n: Images that were attacked at each size, of each of these seeds.
    """

    defence: str
    budget: int
    epochs: int
    cost: float
    seeds: int
    clean: float
    robust: Mapping[str, float]
    by_seed: Mapping[str, Sequence[float]]
    n: Mapping[str, int]

    def interval(self, size: str) -> tuple[float, float]:
        """Wilson's 95 % interval of one seed at the mean: the seeds share their images."""
        return wilson_interval(round(self.robust[size] * self.n[size]), self.n[size])


def epochs_within(budget: float, step_cost: float) -> int:
    """
    How many epochs of a defence a budget buys.

    Example:
    >>> from art_sensreg.benchmark.studies.experiments.equal_cost import epochs_within
    >>> epochs_within(10, 2.6), epochs_within(10, 5.0), epochs_within(10, 11.0)
    (3, 2, 0)
    """
    return math.floor(budget / step_cost + 1e-9)


def budgeted(experiment: Experiment, costs: Mapping[str, Mapping[str, Any]]) -> Experiment:
    """
    The experiment with a row for each defence whose cost is known, and each budget that buys it an epoch at least.

    :param experiment: One with budgets.
    :param costs: What a step was measured to cost, by row.
    :return: The experiment; its rows are named `ROW_bBUDGET`.
    """
    rows = []
    for budget in experiment.budgets:
        for row in experiment.rows:
            epochs = epochs_within(budget, costs[row.name]["step_cost"]) if row.name in costs else 0
            if epochs:
                settings = {**row.settings, "epochs": epochs}
                rows.append(
                    replace(row, name=row_name(row, budget), defence=row.trains, settings=settings, of=row.name)
                )
    return replace(experiment, rows=tuple(rows), costed=False)


def row_name(row: Row, budget: int) -> str:
    """The name of a row at a budget."""
    return f"{row.name}_b{budget}"


def points_of(experiment: Experiment, results: Results, costs: Mapping[str, Mapping[str, Any]]) -> list[Point]:
    """What each defence reaches at each budget, of the rows that are trained; attacked sizes only."""
    points = []
    for row in experiment.rows:
        for budget in experiment.budgets:
            runs = [run for run in results.runs if run.defence == row_name(row, budget) and run.trained]
            if not runs:
                continue
            epochs = epochs_within(budget, costs[row.name]["step_cost"])
            cases: dict[str, list[WorstCase | UnionCase]] = {}
            for run in runs:
                for case in run.worst_case:
                    cases.setdefault(f"{case.norm} {case.eps:.4g}", []).append(case)
                for union in run.union or ():
                    label = " and ".join(f"{norm} {eps:.4g}" for norm, eps in union.eps.items())
                    cases.setdefault(label, []).append(union)
            cases = {size: with_most_images(found) for size, found in cases.items()}
            shares = {size: [case.robust_accuracy for case in found] for size, found in cases.items()}
            points.append(
                Point(
                    defence=row.name,
                    budget=budget,
                    epochs=epochs,
                    cost=epochs * costs[row.name]["step_cost"],
                    seeds=len(runs),
                    clean=fmean(run.clean_accuracy or 0.0 for run in runs),
                    robust={size: fmean(found) for size, found in shares.items()},
                    by_seed=shares,
                    n={size: found[0].n for size, found in cases.items()},
                )
            )
    return points


def best_at(points: Sequence[Point], size: str) -> dict[int, Point]:
    """The most robust defence at each budget."""
    best: dict[int, Point] = {}
    for point in points:
        before = best.get(point.budget)
        if size in point.robust and (before is None or point.robust[size] > before.robust[size]):
            best[point.budget] = point
    return best


def equal_cost_tables(points: Sequence[Point]) -> list[tuple[str, Table]]:
    """For each size, the defences attacked there and a column per budget: robust accuracy, epochs, which is best."""
    tables = []
    budgets = sorted({point.budget for point in points})
    for size in dict.fromkeys(size for point in points for size in point.robust):
        best, rows = best_at(points, size), []
        for name in dict.fromkeys(point.defence for point in points if size in point.robust):
            cells = []
            for budget in budgets:
                point = next((one for one in points if (one.defence, one.budget) == (name, budget)), None)
                if point is None or size not in point.robust:
                    cells.append("-")
                    continue
                mark = " best" if best[budget] is point else ""
                share = shares_with_interval(point.by_seed[size], point.n[size])
                cells.append(f"{share} ({point.epochs}){mark}")
            rows.append([name, *cells])
        header = ["defence", *(f"{budget} plain epochs" for budget in budgets)]
        heading = f"{size}: robust accuracy, % [95 % CI] (epochs that the budget buys)"
        tables.append((heading, Table(header, rows)))
    return tables


# Twelve colours that are easy to tell apart: blue and red for the first two rows, which are ours.
_COLOURS = (
    "#1f4fb4", "#d62728", "#2ca02c", "#9467bd", "#8c564b", "#e377c2",
    "#bcbd22", "#555555", "#ff7f0e", "#17becf", "#98a800", "#c49c94",
)  # fmt: skip
_WHOLE = 102.0


def _spread(shares: np.ndarray) -> np.ndarray:
    """Position of a share (in %) on the axis: logarithmic in the share that is broken."""
    place: np.ndarray = -np.log10(np.maximum(_WHOLE - np.asarray(shares, dtype=float), 0.1))
    return place


def plot_equal_cost(points: Sequence[Point], size: str, path: Path) -> None:
    """
    Plot robust accuracy against training cost, a curve for each defence; a ring marks the best at each budget. The
    variants of a defence (`NAME_VARIANT`) are dashed, in its colour; the axis spreads out what is close to 100 %.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    axes = figure.add_subplot()
    measured = [point for point in points if size in point.robust]
    names = list(dict.fromkeys(point.defence for point in measured))
    plain = list(dict.fromkeys(name.split("_")[0] for name in names))
    for number, name in enumerate(names):
        curve = sorted((one for one in measured if one.defence == name), key=lambda one: one.cost)
        shares = 100 * np.array([one.robust[size] for one in curve])
        low, high = 100 * np.array([one.interval(size) for one in curve]).T
        variant = "_" in name
        axes.errorbar(
            [one.cost for one in curve],
            shares,
            yerr=np.maximum([shares - low, high - shares], 0.0),  # rounding may leave them a little below
            elinewidth=0.5,
            linewidth=1.0 if variant else 2.2,
            markersize=4 if variant else 7,
            label=name,
            color=_COLOURS[plain.index(name.split("_")[0]) % len(_COLOURS)],
            linestyle="--" if variant else "-",
            marker="s^Dvx*"[number % 6] if variant else "o",
        )
    best = best_at(points, size).values()
    axes.plot(
        [point.cost for point in best], [100 * point.robust[size] for point in best],
        "o", ms=14, mfc="none", mec="black", label="best at its budget",
    )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("training cost, in epochs of plain training (measured)")
    axes.set_ylabel(f"accuracy under AutoAttack, %, {size} (axis not linear)")
    axes.set_yscale("function", functions=(_spread, lambda place: _WHOLE - 10.0**-place))
    axes.set_yticks([0, 20, 40, 60, 70, 80, 85, 90, 95, 98])
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small")
    save_picture(figure, path)


def write_equal_cost(points: Sequence[Point], out: Path) -> tuple[list[tuple[str, Table]], list[str]]:
    """Write `equal-cost.json` and a picture of each size; the tables, and the names of the pictures."""
    if not points:
        return [], []
    write_text(out / "equal-cost.json", json_text([asdict(point) for point in points]))
    pictures = []
    for size in dict.fromkeys(size for point in points for size in point.robust):
        pictures.append(f"equal-cost-{size.replace(' ', '-')}.png")
        plot_equal_cost(points, size, out / pictures[-1])
    return equal_cost_tables(points), pictures
