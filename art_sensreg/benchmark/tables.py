"""The table of a run: rows of text, for the terminal, Markdown and the report."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import Any

from art_sensreg.benchmark.records import wilson_interval


@dataclass(frozen=True)
class Table:
    """A header and rows of text."""

    header: list[str]
    rows: list[list[str]]

    def as_text(self) -> str:
        """The table in aligned columns: the first to the left, the others to the right."""
        widths = [max(len(line[i]) for line in [self.header, *self.rows]) for i in range(len(self.header))]
        lines = []
        for line in [self.header, ["-" * width for width in widths], *self.rows]:
            cells = [line[0].ljust(widths[0])] + [cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True)]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)

    def as_markdown(self) -> str:
        """The table in Markdown."""
        lines = [self.header, ["---", *["---:"] * (len(self.header) - 1)], *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def group_runs(data: dict[str, Any], status: str = "ok") -> dict[str, list[dict[str, Any]]]:
    """
    The runs of a record by defence, in the order of the settings.

    :param data: Content of `results.json`.
    :param status: `ok`, for every run that has a trained model; `not_applicable`, or `error`.
    :return: Runs by the name of the defence.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in data["runs"]:
        matches = run["clean_accuracy"] is not None if status == "ok" else run["status"] == status
        if matches:
            groups.setdefault(run["defence"], []).append(run)
    return groups


def summary_table(data: dict[str, Any]) -> Table:
    """
    One row per defence: clean accuracy, worst case at each eps with its interval, cost.

    :param data: Content of `results.json`.
    :return: The table.
    """
    norm, sizes = data["config"]["norm"], data["config"]["eps"]
    header = [
        "defence",
        "clean %",
        *[f"{norm} {eps:.4g}: worst case % [95 % CI]" for eps in sizes],
        "step cost",
        "train s",
    ]
    rows = []
    for name, runs in group_runs(data).items():
        row = [name, _percent([run["clean_accuracy"] for run in runs])]
        for eps in sizes:
            worst = [case for run in runs for case in run["worst_case"] if (case["norm"], case["eps"]) == (norm, eps)]
            row.append(_with_interval(worst))
        costs = [run["step_cost"] for run in runs if run["step_cost"] is not None]
        row += [f"{fmean(costs):.1f}" if costs else "-", f"{fmean(run['train_seconds'] for run in runs):.1f}"]
        rows.append(row)
    return Table(header, rows)


def attack_table(data: dict[str, Any], eps: float) -> Table:
    """
    One row per defence, one column per attack, at one eps.

    :param data: Content of `results.json`.
    :param eps: Attack size.
    :return: The table; a star marks attacks on part of the images only.
    """
    names = data["config"]["attacks"]
    rows = []
    for name, runs in group_runs(data).items():
        row = [name]
        for attack in names:
            found = [
                entry for run in runs for entry in run["attacks"] if (entry["attack"], entry["eps"]) == (attack, eps)
            ]
            filled = [entry for entry in found if entry["mask"]]
            part = any(entry["n"] < data["config"]["test_size"] for entry in filled)
            text = _percent([entry["robust_accuracy"] for entry in filled]) if filled else "failed" if found else ""
            row.append(text + ("*" if part else ""))
        rows.append(row)
    return Table([f"{data['config']['norm']} {eps:.4g}", *names], rows)


def explanations(data: dict[str, Any]) -> list[str]:
    """
    What did not run, and why.

    :param data: Content of `results.json`.
    :return: One line for each such run.
    """
    lines = []
    for status, words in (("not_applicable", "not applicable"), ("error", "failed")):
        for name, runs in group_runs(data, status).items():
            lines += [f"{name} (seed {run['seed']}): {words}: {run['reason']}" for run in runs]
    return lines


def _percent(shares: list[float]) -> str:
    text = f"{100 * fmean(shares):.1f}"
    if len(shares) > 1:
        mean = fmean(shares)
        spread = (sum((share - mean) ** 2 for share in shares) / (len(shares) - 1)) ** 0.5
        text += f" ± {100 * spread:.1f}"
    return text


def _with_interval(cases: list[dict[str, Any]]) -> str:
    if not cases:
        return "-"
    shares = [case["robust_accuracy"] for case in cases]
    # Seeds share their test points: the interval is that of one run at the mean, and the spread stands beside it.
    n = cases[0]["n"]
    low, high = wilson_interval(round(fmean(shares) * n), n)
    return f"{_percent(shares)} [{100 * low:.1f}, {100 * high:.1f}]"
