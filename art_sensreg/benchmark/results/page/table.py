"""The main table of the page: cells with what they are sorted by, and red flags beside the numbers they concern."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from art_sensreg.benchmark.results.records import Results
from art_sensreg.benchmark.results.summary import Cell, Cost, Row, Size, sizes_of, summary_rows
from art_sensreg.benchmark.results.tables import percent

# Sizes of which each has a column of its own for the gain over `none`.
_MOST_GAINS = 3


@dataclass(frozen=True, kw_only=True)
class Entry:
    """
    A cell.

    :param text: The number, or words.
    :param value: What the column is sorted by; empty if there is nothing to compare.
    :param aside: Its interval, number of images or spread.
    :param flags: What is wrong with the number.
    :param tone: `good`, `bad`, `soft` or nothing.
    :param words: Whether it holds words.
    """

    text: str
    value: str = ""
    aside: str = ""
    flags: tuple[str, ...] = ()
    tone: str = ""
    words: bool = False


@dataclass(frozen=True, kw_only=True)
class MainTable:
    """
    The table.

    :param header: The names of the columns; the first is the defence.
    :param rows: Defence, flags of the whole row, and the cells behind it.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...], tuple[Entry, ...]], ...]


def main_table(results: Results, headline: Size) -> MainTable:
    """One row for each defence; those that could not run say why."""
    sizes = sizes_of(results)
    gains = sizes if len(sizes) <= _MOST_GAINS else [headline]
    several = len({norm for norm, _ in sizes}) > 1

    def name(size: Size) -> str:
        return f"{size[0]} {size[1]:.4g}" if several else f"{size[1]:.4g}"

    header = ["defence", "clean %", *[f"worst case % at {name(size)}" for size in sizes]]
    header += [*[f"gain over none at {name(size)}" for size in gains], "step cost", "train s", "audit", "shown"]
    rows = []
    for row in summary_rows(results):
        flags = (row.reason,) if row.reason else ()
        if not row.runs:
            rows.append((row.defence, flags, tuple(Entry(text="-") for _ in header[1:])))
            continue
        cells = [_clean(row)]
        cells += [_worst(row.cells.get(size), results) for size in sizes]
        cells += [_gain(row.cells.get(size)) for size in gains]
        cells += [_cost(row.cost), Entry(text=f"{row.seconds:.1f}", value=f"{row.seconds:.6g}"), _audit(row)]
        cells.append(Entry(text=row.shown, value=row.shown, words=True, tone="bad" if "NOT" in row.shown else ""))
        rows.append((row.defence, flags, tuple(cells)))
    return MainTable(header=tuple(header), rows=tuple(rows))


def _clean(row: Row) -> Entry:
    mean = sum(row.clean) / len(row.clean)
    flags = (row.shown,) if row.shown.startswith("no better") else ()
    return Entry(text=percent(row.clean), value=f"{mean:.6g}", flags=flags)


def _worst(cell: Cell | None, results: Results) -> Entry:
    if cell is None:
        return Entry(text="-")
    partial = ", ".join(f"{name} {n}" for name, n in cell.partial.items())
    flags = [f"fewer images: {partial}"] if partial else []
    flags += [f"failed: {', '.join(cell.failed)}"] if cell.failed else []
    flags += [f"{cell.n} of {results.config.test_size} images"] if cell.n < results.config.test_size else []
    return Entry(
        text=percent(cell.shares),
        value=f"{cell.mean:.6g}",
        aside=f"{100 * cell.low:.1f} to {100 * cell.high:.1f}, n\u00a0{cell.n}",
        flags=tuple(flags),
    )


def _gain(cell: Cell | None) -> Entry:
    if cell is None or cell.gain is None:
        return Entry(text="-")
    within = abs(cell.gain) <= cell.gain_error
    return Entry(
        text=f"{100 * cell.gain:+.1f}",
        value=f"{cell.gain:.6g}",
        aside=f"± {100 * cell.gain_error:.1f}" + (", within the sampling error" if within else ""),
        tone="soft" if within else "bad" if cell.gain < 0 else "",
    )


def _cost(cost: Cost | None) -> Entry:
    if cost is None:
        return Entry(text="-")
    aside = "" if cost.low is None else f"{cost.low:.1f} to {cost.high:.1f}"
    noisy = cost.low is not None and cost.high is not None and cost.high - cost.low > 0.5 * cost.median
    flags = ("unsteady machine",) if noisy else ()
    return Entry(text=f"{cost.median:.1f}", value=f"{cost.median:.6g}", aside=aside, flags=flags)


def _audit(row: Row) -> Entry:
    if not row.verdicts:
        return Entry(text="not audited", value="1", words=True, tone="soft")
    bad = [verdict for verdict in row.verdicts if verdict.startswith("do not trust")]
    if bad:
        return Entry(text=_short(bad), value="0", words=True, tone="bad")
    good = all(verdict == "no failure detected" for verdict in row.verdicts)
    return Entry(text=row.verdicts[0], value="2" if good else "1", words=True, tone="good" if good else "soft")


def _short(verdicts: Sequence[str]) -> str:
    """The first checks that failed in any seed, and how many more."""
    checks = dict.fromkeys(check for verdict in verdicts for check in verdict.partition(": ")[2].split(", "))
    first, more = list(checks)[:2], len(checks) - 2
    return f"do not trust: {', '.join(first)}" + (f" and {more} more" if more > 0 else "")
