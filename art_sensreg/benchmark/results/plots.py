"""The plots of a run: worst case over eps and against training time, and random models over the attacker's draws."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from art_sensreg.benchmark.config.threat_models import Threat
from art_sensreg.benchmark.defences import DEFENCES
from art_sensreg.benchmark.results.records import Results
from art_sensreg.benchmark.results.summary import cases_at, trained_runs
from art_sensreg.benchmark.results.writing import save_picture


def plot_curve(results: Results, path: Path) -> None:
    """Plot the robust accuracy of random models over the number of draws that the attacker averages."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    curves = {
        name: [point for run in runs for point in run.eot_curve or ()] for name, runs in trained_runs(results).items()
    }
    for number, (name, curve) in enumerate((name, curve) for name, curve in curves.items() if curve):
        for style, eps in zip(("-", "--", ":"), sorted({point.eps for point in curve}), strict=False):
            draws = sorted({point.samples for point in curve if point.eps == eps})
            shares = [
                fmean(point.robust_accuracy for point in curve if (point.eps, point.samples) == (eps, n)) for n in draws
            ]
            label = f"{name}, eps {eps:.4g}"
            axes.plot(draws, [100 * share for share in shares], style, marker="o", color=f"C{number % 10}", label=label)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("draws that the attacker averages")
    axes.set_ylabel("robust accuracy against PGD, %")
    axes.set_ylim(0, 101)
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    save_picture(figure, path)


def plot_robustness(results: Results, path: Path, threat: Threat) -> None:
    """Plot the worst case over eps, one line per defence, with the clean accuracy at eps 0."""
    from matplotlib.figure import Figure

    groups = trained_runs(results)
    columns = -(-len(groups) // 24)
    figure = Figure(figsize=(7 + 2 * columns, 5 if columns == 1 else 7), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, runs) in enumerate(groups.items()):
        points = [(0.0, fmean(run.clean_accuracy or 0.0 for run in runs))]
        for eps in threat.eps:
            cases = cases_at(runs, (threat.norm, eps))
            if cases:
                points.append((eps, fmean(case.robust_accuracy for case in cases)))
        axes.plot(
            [eps for eps, _ in points],
            [100 * share for _, share in points],
            label=name,
            linestyle="--" if _from_art(name) else "-",
            color=f"C{number % 10}",
            marker="os^Dvx"[number // 10 % 6],
        )
    axes.set_xlabel(f"eps ({threat.norm})")
    axes.set_ylabel("worst case over the attacks, % of the images")
    axes.set_ylim(0, 101)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), ncols=columns, fontsize="small")
    save_picture(figure, path)


def plot_cost(results: Results, path: Path, norm: str, eps: float) -> None:
    """
    Plot the worst case against the time of training, that of `none` being 1: each defence that is trained, with its
    interval. Pre- and postprocessors of the undefended model are left out.
    """
    from matplotlib.figure import Figure

    groups = trained_runs(results)
    runs_of_none = {run.seed: run.train_seconds for run in groups["none"]}
    plain = fmean(seconds or 0.0 for seconds in runs_of_none.values())
    points = []
    for name, runs in groups.items():
        cases = cases_at(runs, (norm, eps))
        trained = name == "none" or any(run.train_seconds != runs_of_none[run.seed] for run in runs)
        if cases and trained:
            shares = [(case.ci_low, case.robust_accuracy, case.ci_high) for case in cases]
            low, share, high = (100 * fmean(column) for column in zip(*shares, strict=True))
            points.append((name, fmean(run.train_seconds or 0.0 for run in runs) / plain, low, share, high))
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, cost, low, share, high in points:
        ours = name != "none" and not _from_art(name)
        color = "C0" if ours else "0.45"
        under = any(share < other[3] < share + 12 and 0.75 < cost / other[1] < 1.33 for other in points)
        axes.errorbar(cost, share, [[share - low], [high - share]], fmt="o" if ours else "s", color=color, lw=1, ms=5)
        axes.annotate(
            name,
            (cost, share),
            (5, -11 if under else 4),
            textcoords="offset points",
            fontsize="small",
            color=color,
        )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlim(0.9, 1.5 * max(point[1] for point in points))
    axes.set_xlabel("time of training, that of the undefended model = 1")
    axes.set_ylabel(f"worst case over the attacks, %, {norm} {eps:g}")
    axes.grid(alpha=0.3)
    save_picture(figure, path)


def _from_art(name: str) -> bool:
    """Whether a defence is ART's; those of plug-ins, which need not be loaded, are not."""
    return name in DEFENCES and DEFENCES[name].from_art
