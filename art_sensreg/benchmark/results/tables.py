"""The tables that every run has, for the terminal, Markdown and the report."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Protocol

from art_sensreg.benchmark.attacks import ATTACKS
from art_sensreg.benchmark.results.entries import AttackRecord
from art_sensreg.benchmark.results.records import Results, RunRecord
from art_sensreg.benchmark.results.summary import (
    FAILED,
    Cell,
    Cost,
    sizes_of,
    summary_rows,
    trained_runs,
    with_most_images,
)
from art_sensreg.utils.stats import wilson_interval
from art_sensreg.utils.tables import Table
from art_sensreg.utils.text import one_line


class Share(Protocol):
    """A share of images."""

    @property
    def robust_accuracy(self) -> float:
        """The share."""

    @property
    def n(self) -> int:
        """Number of images."""


def summary_table(results: Results) -> Table:
    """
    One row per defence: clean accuracy, worst case at each eps with its interval and number of images, cost, what it
    shows; what could not run at all says why. A star marks a worst case that some attacks saw only a part of.
    """
    sizes = sizes_of(results)
    worst = [f"{norm} {eps:.4g}: worst case % [95 % CI]" for norm, eps in sizes]
    header = ["defence", "clean %", *worst, "n", "step cost", "train s", "shown"]
    rows = []
    for row in summary_rows(results):
        if not row.runs:
            rows.append([row.defence, *["-"] * (len(header) - 2), row.reason])
            continue
        cells = [row.cells.get(size) for size in sizes]
        counts = dict.fromkeys(str(cell.n) for cell in cells if cell is not None)
        entries = [percent(row.clean), *map(cell_text, cells), "/".join(counts) or "-", cost_text(row.cost)]
        rows.append([row.defence, *entries, f"{row.seconds:.1f}", row.shown])
    return Table(header, rows, words=("shown",))


def cell_text(cell: Cell | None) -> str:
    """A worst case as text: its mean in percent, its spread over the seeds, and its interval."""
    if cell is None:
        return "-"
    star = "*" if cell.partial or cell.failed else ""
    return f"{percent(cell.shares)}{star} [{100 * cell.low:.1f}, {100 * cell.high:.1f}]"


def cost_text(cost: Cost | None) -> str:
    """A step cost as text: the median, and the quartiles of its repeats."""
    if cost is None:
        return "-"
    return f"{cost.median:.1f}" + ("" if cost.low is None else f" ({cost.low:.1f} to {cost.high:.1f})")


def partial_lines(results: Results) -> list[str]:
    """Which attacks of the worst cases were made on fewer images than these have, and which failed, by defence."""
    groups: dict[str, list[str]] = {}
    for row in summary_rows(results):
        partial = {name: n for cell in row.cells.values() for name, n in cell.partial.items()}
        words = [f"{name} on the first {n} images" for name, n in partial.items()]
        words += dict.fromkeys(f"{name} failed" for cell in row.cells.values() for name in cell.failed)
        if words:
            groups.setdefault(", ".join(words), []).append(row.defence)
    return [f"* {', '.join(names)}: {words}" for words, names in groups.items()]


def detail_tables(results: Results) -> list[tuple[str, Table]]:
    """Each attack at each size, and random noise, under their headings."""
    cumulative = "" if results.config.all_points else ", after this attack and those to its left"
    tables = []
    for threat in results.config.threats:
        for eps in threat.eps:
            heading = f"Each attack at {threat.norm} {eps:.4g}: robust accuracy in %{cumulative}"
            tables.append((heading, attack_table(results, threat.norm, eps)))
    noise = noise_table(results)
    return tables + ([("Random noise of each size: accuracy in %, mean over 10 draws", noise)] if noise.rows else [])


def noise_table(results: Results) -> Table:
    """One row per defence: accuracy under random noise of each size."""
    sizes, rows = sizes_of(results), []
    for name, runs in trained_runs(results).items():
        noise = [entry for run in runs for entry in run.random_noise or ()]
        found = [[entry.accuracy for entry in noise if entry.threat == size] for size in sizes]
        if any(found):
            rows.append([name, *[percent(shares) if shares else "-" for shares in found]])
    return Table(["defence", *[f"{norm} {eps:.4g}" for norm, eps in sizes]], rows)


def attack_table(results: Results, norm: str, eps: float) -> Table:
    """
    One row per defence, or two if it is attacked as ART does by default and adaptively; one column per attack. A star
    marks attacks on part of the images.
    """
    names = results.config.attacks
    rows = []
    for name, runs in trained_runs(results).items():
        attacks = [attack for run in runs for attack in run.attacks if attack.threat == (norm, eps)]
        views = sorted({attack.view for attack in attacks}, reverse=True)
        for view in views:
            label = name if len(views) == 1 else f"{name} ({'ART' if view == 'default' else 'adaptive'})"
            seen = [attack for attack in attacks if attack.view == view]
            entries = [_attack_entry([one for one in seen if one.attack == attack], results) for attack in names]
            rows.append([label, *entries])
    return Table([f"{norm} {eps:.4g}", *names], rows)


def _attack_entry(found: Sequence[AttackRecord], results: Results) -> str:
    ran = [attack for attack in found if attack.robust_accuracy is not None]
    if not ran:
        return "failed" if any(attack.status == "error" for attack in found) else "-" if found else ""
    part = any(attack.n < results.config.test_size for attack in ran)
    return percent([attack.robust_accuracy or 0.0 for attack in with_most_images(ran)]) + ("*" if part else "")


def run_name(run: RunRecord, results: Results) -> str:
    """How a run is called in a table."""
    return run.defence if results.config.seeds == 1 else _with_seed(run)


def explanations(results: Results) -> list[str]:
    """What did not run, and why."""
    lines = [
        f"{_with_seed(run)}: {words}: {run.reason}"
        for status, words in FAILED.items()
        for run in sorted(results.runs, key=lambda run: _first(results, run))
        if run.status == status
    ]
    lines += [*partial_lines(results), *results.left_out]
    for threat in results.config.threats:
        names = [name for name in results.config.attacks if threat.norm not in ATTACKS[name].norms]
        lines += [f"{name}: not defined in {threat.norm}, left out there" for name in names]
    for run in results.runs:
        lines += [f"{_with_seed(run)}: {note}" for note in (*(run.notes or ()), run.measure_error) if note]
        adaptive = any(attack.view == "adaptive" for attack in run.attacks)
        refused = [attack for attack in run.attacks if attack.status == "not_applicable"]
        reasons = dict.fromkeys(
            (f"{attack.attack}{' as ART attacks it' if adaptive else ''}", attack.reason) for attack in refused
        )
        lines += [f"{_with_seed(run)}: {name} not applicable: {reason}" for name, reason in reasons]
    return [one_line(line) for line in lines]


def _with_seed(run: RunRecord) -> str:
    return f"{run.defence} (seed {run.seed})"


def _first(results: Results, run: RunRecord) -> int:
    """Where the first run of the same defence stands: its runs are shown together."""
    return next(number for number, other in enumerate(results.runs) if other.defence == run.defence)


def percent(shares: Sequence[float]) -> str:
    """Shares of several seeds as text: their mean in percent, and their spread."""
    spread = f" ± {100 * stdev(shares):.1f}" if len(shares) > 1 else ""
    return f"{100 * fmean(shares):.1f}{spread}"


def with_interval(cases: Sequence[Share]) -> str:
    """Shares of several seeds (those with the most images) as text, with Wilson's interval."""
    cases = with_most_images(cases)
    return shares_with_interval([case.robust_accuracy for case in cases], cases[0].n) if cases else "-"


def shares_with_interval(shares: Sequence[float], n: int) -> str:
    """Shares of `n` images, one of each seed, as text, with Wilson's interval."""
    # Seeds share their test points: the interval is that of one run at the mean, and the spread stands beside it.
    low, high = wilson_interval(round(fmean(shares) * n), n)
    return f"{percent(shares)} [{100 * low:.1f}, {100 * high:.1f}]"
