"""The result in sentences: the best defence at each cost, with its interval, and what the audits found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from art_sensreg.benchmark.results.records import Results
from art_sensreg.benchmark.results.summary import Row, Size, sizes_of, summary_rows
from art_sensreg.utils.stats import clearly_above

# The most that a training step may cost, in plain steps, and how that is called.
_COSTS = ((2.0, "At up to twice the cost of plain training"), (4.0, "Up to four times"), (math.inf, "At any cost"))


@dataclass(frozen=True, kw_only=True)
class Best:
    """
    The defence with the highest worst case at a cost.

    :param cost: The cost, in words.
    :param row: The defence.
    :param level: Others of that cost that the sampling error does not tell from it.
    """

    cost: str
    row: Row
    level: tuple[Row, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """
    What a run says first.

    :param size: The norm and eps that it is about.
    :param best: The best at each cost.
    :param plain: The undefended model, if it was trained.
    :param distrusted: Defences whose audit failed.
    :param believed: Defences whose audit found no failure.
    :param above: Distrusted defences whose worst case is higher than that of the best.
    """

    size: Size
    best: tuple[Best, ...]
    plain: Row | None
    distrusted: tuple[Row, ...]
    believed: tuple[Row, ...]
    above: tuple[Row, ...]


def verdict_of(results: Results) -> Verdict:
    """The best at each cost at the largest size where something is above `none`; what failed its audit is left out."""
    rows = [row for row in summary_rows(results) if row.runs]
    size = _headline(rows, results)
    plain = next((row for row in rows if row.defence == "none"), None)
    eligible = [row for row in rows if row.defence != "none" and size in row.cells and not row.distrusted]
    best: list[Best] = []
    for most, words in _COSTS:
        found = _best([row for row in eligible if cost_of(row) <= most], size, words)
        if found is not None and (not best or found.row.defence != best[-1].row.defence):
            best.append(found)
    top = max((one.row.cells[size].mean for one in best), default=0.0)
    distrusted = tuple(row for row in rows if row.distrusted)
    return Verdict(
        size=size,
        best=tuple(best),
        plain=plain,
        distrusted=distrusted,
        believed=tuple(row for row in rows if row.verdicts and not row.distrusted and _audited(row)),
        above=tuple(row for row in distrusted if size in row.cells and row.cells[size].mean > top),
    )


def cost_of(row: Row) -> float:
    """Its step cost; infinite if it was not measured."""
    return math.inf if row.cost is None else row.cost.median


def _audited(row: Row) -> bool:
    return all(verdict == "no failure detected" for verdict in row.verdicts)


def _headline(rows: Sequence[Row], results: Results) -> Size:
    first = [size for size in sizes_of(results) if size[0] == results.config.threats[0].norm]
    for size in reversed(first):
        cells = [row.cells[size] for row in rows if size in row.cells]
        if any(cell.gain is not None and cell.gain > cell.gain_error for cell in cells):
            return size
    return first[0]


def _best(rows: Sequence[Row], size: Size, words: str) -> Best | None:
    useful = [row for row in rows if not row.shown.startswith("no better")]
    if not useful:
        return None
    best = max(useful, key=lambda row: row.cells[size].mean)
    top = (best.cells[size].mean, best.cells[size].n)
    level = [
        row for row in useful if row is not best and not clearly_above(top, (row.cells[size].mean, row.cells[size].n))
    ]
    level.sort(key=lambda row: -row.cells[size].mean)
    return Best(cost=words, row=best, level=tuple(level))
