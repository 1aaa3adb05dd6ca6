"""The charts of the page: robust accuracy against the cost of training and against eps, and curves by epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from art_sensreg.benchmark.results.page.svg import GREY, INK, SERIES, TIP, inline_svg, settings
from art_sensreg.benchmark.results.page.verdict import cost_of
from art_sensreg.benchmark.results.summary import Row, Size
from art_sensreg.utils.stats import wilson_interval

# Where a name may stand: points from its dot, and how it is aligned.
_SIDES = (
    ((7, 0), "left", "center"),
    ((0, 7), "center", "bottom"),
    ((0, -7), "center", "top"),
    ((-7, 0), "right", "center"),
    ((6, 8), "left", "bottom"),
    ((6, -8), "left", "top"),
)
# Curves with a colour and a name.
MOST_NAMED = len(SERIES)


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart for a wide page and for a narrow one, each an SVG element."""

    wide: str
    narrow: str


@dataclass(frozen=True, kw_only=True)
class Line:
    """
    A curve.

    :param points: Its points, x and y.
    :param band: Lower and upper ends at the same x, or nothing.
    """

    name: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float]] = field(default=())


def line_chart(lines: Sequence[Line], named: Sequence[str], axes: tuple[str, str], key: str, percent: bool) -> Chart:
    """
    Curves, of which the `named` ones have a colour, a band and their name at the end; the others are grey.

    :param axes: What x and y are.
    :param key: Name of the chart on its page.
    :param percent: Whether y is a share in percent.
    """
    label = f"{axes[1]} against {axes[0]}: {', '.join(line.name for line in lines)}"

    def draw(figure: Any) -> None:
        plot = figure.add_subplot(xlabel=axes[0], ylabel=axes[1])
        ends = []
        for line in lines:
            colour = SERIES[list(named).index(line.name)] if line.name in named else None
            x, y = zip(*line.points, strict=True)
            (curve,) = plot.plot(x, y, color=colour or GREY, lw=2 if colour else 0.8, alpha=1 if colour else 0.55)
            curve.set_gid(TIP + line.name)
            if colour:
                plot.plot(x, y, "o", ms=3.5, color=colour)
                ends.append((x[-1], y[-1], line.name, colour))
                if line.band:
                    low, high = zip(*line.band, strict=True)
                    plot.fill_between(x, low, high, color=colour, alpha=0.1, lw=0)
        if percent:
            plot.set_ylim(0, 101)
        _name_ends(figure, plot, ends)

    return _both(draw, label, key)


def robustness_lines(rows: Sequence[Row], sizes: Sequence[Size], n: int) -> list[Line]:
    """The worst case of each defence over eps with Wilson's interval, from the clean accuracy of `n` images at 0."""
    lines = []
    for row in rows:
        cells = [(size[1], row.cells[size]) for size in sizes if size in row.cells]
        if not cells:
            continue
        clean = sum(row.clean) / len(row.clean)
        points = [(0.0, 100 * clean), *((eps, 100 * cell.mean) for eps, cell in cells)]
        intervals = [wilson_interval(round(clean * n), n), *((cell.low, cell.high) for _, cell in cells)]
        band = [(100 * low, 100 * high) for low, high in intervals]
        lines.append(Line(name=row.defence, points=points, band=band))
    return lines


def front(rows: Sequence[Row], size: Size) -> list[Row]:
    """The rows that no other is above at the same or a lower cost, by cost; those whose audit failed do not count."""
    best: list[Row] = []
    trusted = [row for row in rows if not row.distrusted]
    for row in sorted(trusted, key=lambda row: (cost_of(row), -row.cells[size].mean)):
        if not best or row.cells[size].mean > best[-1].cells[size].mean:
            best.append(row)
    return best


def cost_chart(rows: Sequence[Row], size: Size, key: str) -> Chart:
    """One dot for each seed at its step cost and worst case, a cross if its audit failed; the front connects means."""
    norm, eps = size
    shown = [row for row in rows if size in row.cells and row.cost is not None]
    best = front(shown, size)
    words = ", ".join(row.defence for row in best)
    label = f"Worst case at {norm} {eps:.4g} against the step cost of {len(shown)} defences; on the front: {words}"

    def draw(figure: Any) -> None:
        plot = figure.add_subplot(xlabel="step cost: time of a training step, a plain one = 1")
        plot.set_ylabel(f"worst case at {norm} {eps:.4g}, %")
        plot.set_xscale("log", base=2)
        plot.xaxis.set_major_formatter("{x:g}")
        line = [(cost_of(row), 100 * row.cells[size].mean) for row in best]
        highest = max(cost_of(row) for row in shown)
        steps = [*line, (highest * 1.15, line[-1][1])] if line else []
        if steps:
            plot.plot(*zip(*steps, strict=True), color=SERIES[1], lw=1.4, drawstyle="steps-post", alpha=0.8)
        names = []
        for row in shown:
            colour = SERIES[1] if row in best else INK if row.defence == "none" else GREY
            dots = _dots(row, size)
            mark, words = ("x", ", failed its audit") if row.distrusted else ("o", "")
            (found,) = plot.plot(*zip(*dots, strict=True), mark, color=colour, ms=5.5, alpha=0.9, lw=0)
            found.set_gid(f"{TIP}{row.defence}: {100 * row.cells[size].mean:.1f} %, cost {cost_of(row):.1f}{words}")
            names.append((cost_of(row), 100 * row.cells[size].mean, row.defence, colour))
        plot.set_ylim(-3, 104)
        plot.set_xlim(min(0.9, *(dot[0] for row in shown for dot in _dots(row, size))) * 0.95, highest * 1.3)
        _name_dots(figure, plot, sorted(names, key=lambda name: name[3] == GREY), steps)

    return _both(draw, label, key)


def _dots(row: Row, size: Size) -> list[tuple[float, float]]:
    n = row.cells[size].n if size in row.cells else 0
    cases = [(run.seed, case) for run in row.runs for case in run.worst_case if case.threat == size and case.n == n]
    shares = {seed: case.robust_accuracy for seed, case in cases}
    costs = {run.seed: run.step_cost for run in row.runs if run.step_cost is not None}
    return [(cost, 100 * shares[seed]) for seed, cost in costs.items() if seed in shares]


def history_lines(histories: Mapping[str, Sequence[Mapping[str, float]]], entry: str, factor: float) -> list[Line]:
    """A curve by epoch for each history that has the entry."""
    lines = []
    for name, epochs in histories.items():
        points = [(float(number + 1), factor * epoch[entry]) for number, epoch in enumerate(epochs) if entry in epoch]
        if points:
            lines.append(Line(name=name, points=points))
    return lines


def _both(draw: Callable[[Any], None], label: str, key: str) -> Chart:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    made = {}
    for name, width, height, letters in (("wide", 9.6, 4.6, 8.0), ("narrow", 4.9, 5.4, 11.0)):
        with rc_context(settings(letters)):
            figure = Figure(figsize=(width, height), layout="constrained")
            draw(figure)
            made[name] = inline_svg(figure, label, f"{key}-{name}")
    return Chart(**made)


def _name_ends(figure: Any, plot: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Names at the ends of curves, pushed apart where they would lie on each other."""
    if not ends:
        return
    height = figure.get_figheight() * 72 * 0.8
    low, high = plot.get_ylim()
    gap = plot.xaxis.label.get_fontsize() * 1.25 / height * (high - low)
    places: list[float] = []
    for _, y, _, _ in sorted(ends, key=lambda end: end[1]):
        places.append(max(y, places[-1] + gap) if places else y)
    top = high - gap / 2
    for number in reversed(range(len(places))):  # what was pushed out at the top comes down again
        places[number] = min(places[number], top)
        top = places[number] - gap
    right = max(end[0] for end in ends)
    for place, (x, y, name, colour) in zip(places, sorted(ends, key=lambda end: end[1]), strict=True):
        plot.annotate(
            name,
            (x, y),
            (1.02, place),
            xycoords="data",
            textcoords=plot.get_yaxis_transform(),
            va="center",
            color=colour,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.6, "alpha": 0.6},
        )
    plot.set_xlim(plot.get_xlim()[0], right)


def _name_dots(
    figure: Any, plot: Any, names: Sequence[tuple[float, float, str, str]], steps: Sequence[tuple[float, float]]
) -> None:
    """Names beside dots, where there is room beside dots and steps; those that come first choose first."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer, frame = canvas.get_renderer(), plot.get_window_extent()
    taken = []
    for x, y, _, _ in names:
        column, row = plot.transData.transform((x, y))
        taken.append((column - 4, row - 4, column + 4, row + 4))
    corners = [tuple(plot.transData.transform(corner)) for corner in steps]
    for (left, low), (right, high) in pairwise(corners):
        taken += [(left, low - 1, right, low + 1), (right - 1, low, right + 1, high)]
    for x, y, name, colour in names:
        for shift, side, level in _SIDES:
            text = plot.annotate(
                name, (x, y), shift, textcoords="offset points", ha=side, va=level, color=colour, size="small"
            )
            box = text.get_window_extent(renderer)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 + 6 and frame.y0 <= box.y0 and box.y1 <= frame.y1 + 6
            if inside and not any(_overlap((box.x0, box.y0, box.x1, box.y1), other) for other in taken):
                taken.append((box.x0, box.y0, box.x1, box.y1))
                break
            text.remove()


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
