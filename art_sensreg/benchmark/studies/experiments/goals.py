"""What the rows of an experiment are meant to reach, and whether they do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from art_sensreg.benchmark.results.records import Results
from art_sensreg.benchmark.results.summary import Row, Size, summary_rows
from art_sensreg.benchmark.results.tables import cell_text, cost_text, percent
from art_sensreg.utils.tables import Table


@dataclass(frozen=True, kw_only=True)
class Goal:
    """
    What a row is meant to reach; fixed before the experiment, and not changed by what it found.

    :param row: Name of the row.
    :param robust: Robust accuracy at each size, in percent, at least.
    :param clean: Clean accuracy, in percent, at least; None: no goal.
    :param step_cost: Time of a training step over that of a plain one, at most; None: no goal.

    Example:
    >>> from art_sensreg.benchmark.studies.experiments.goals import Goal
    >>> Goal(row="sr+jr", robust={("linf", 0.3): 58}, clean=98.7, step_cost=2.3).robust
    {('linf', 0.3): 58}
    """

    row: str
    robust: Mapping[Size, float] = field(default_factory=dict)
    clean: float | None = None
    step_cost: float | None = None


def goal_table(results: Results, goals: Sequence[Goal]) -> Table:
    """Each goal beside what was measured: the mean over the seeds, as in the table of all rows."""
    found = {row.defence: row for row in summary_rows(results) if row.runs}
    rows = [[goal.row, *line] for goal in goals if goal.row in found for line in _lines(goal, found[goal.row])]
    header = ["row", "figure", "goal", "measured", "seeds", "images", "reached"]
    return Table(header, rows, words=("figure", "reached"))


def _lines(goal: Goal, row: Row) -> Iterator[list[str]]:
    """Figure, goal, what was measured, the seeds and images that it is of, and whether it reaches the goal."""
    seeds = str(len(row.runs))
    for (norm, eps), share in goal.robust.items():
        line = [f"{norm} {eps:.4g}: worst case %", f"at least {share:g}"]
        cell = row.cells.get((norm, eps))
        if cell is None:
            yield [*line, "-", "-", "-", "not measured"]
        else:
            yield [*line, cell_text(cell), str(len(cell.shares)), str(cell.n), _reached(_at_least(cell.mean, share))]
    if goal.clean is not None:
        reached = _reached(_at_least(fmean(row.clean), goal.clean))
        yield ["clean %", f"at least {goal.clean:g}", percent(row.clean), seeds, "-", reached]
    if goal.step_cost is not None:
        line = ["step cost", f"at most {goal.step_cost:g}"]
        if row.cost is None:
            yield [*line, "-", "-", "-", "not measured"]
        else:
            yield [*line, cost_text(row.cost), seeds, "-", _reached(row.cost.median <= goal.step_cost)]


def _at_least(share: float, goal: float) -> bool:
    # 100 * 0.58 is below 58 in floating point.
    return round(100 * share, 6) >= goal


def _reached(reached: bool) -> str:
    return "yes" if reached else "no"
