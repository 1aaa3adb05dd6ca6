"""The table of a run: rows of text, for the terminal, Markdown and the report."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from art_sensreg.auditing import AuditReport
from art_sensreg.benchmark.attacks import ATTACKS
from art_sensreg.benchmark.config.threat_models import threats_of
from art_sensreg.utils.stats import wilson_interval
from art_sensreg.utils.tables import Table
from art_sensreg.utils.text import one_line


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
    One row per defence: clean accuracy, worst case at each eps with its interval, cost, whether its claim is met; what
    could not run at all says why.

    :param data: Content of `results.json`.
    :return: The table.
    """
    threats = [(threat.norm, eps) for threat in threats_of(data["config"]) for eps in threat.eps]
    header = [
        "defence",
        "clean %",
        *[f"{norm} {eps:.4g}: worst case % [95 % CI]" for norm, eps in threats],
        "step cost",
        "train s",
        "claim",
    ]
    rows = []
    for name, runs in group_runs(data).items():
        row = [name, percent([run["clean_accuracy"] for run in runs])]
        for threat in threats:
            worst = [case for run in runs for case in run["worst_case"] if (case["norm"], case["eps"]) == threat]
            row.append(with_interval(worst))
        costs = [run["step_cost"] for run in runs if run["step_cost"] is not None]
        row += [f"{fmean(costs):.1f}" if costs else "-", f"{fmean(run['train_seconds'] for run in runs):.1f}"]
        rows.append([*row, claim_mark(runs)])
    filled = {row[0] for row in rows}
    for status, words in (("not_applicable", "not applicable"), ("error", "failed")):
        for name, runs in group_runs(data, status).items():
            if name not in filled:
                rows.append([name, *["-"] * (len(header) - 2), f"{words}: {runs[0]['reason']}"])
    return Table(header, rows, words=("claim",))


def claim_mark(runs: list[dict[str, Any]]) -> str:
    """
    What the runs of several seeds show of a claim: it is met if it is in every one.

    :param runs: Runs of one defence.
    :return: Text for a table; what is not met stands out.

    Example:
    >>> from art_sensreg.benchmark.results.tables import claim_mark
    >>> claim_mark([{"claim": {"status": "met"}}, {"claim": {"status": "not met"}}])
    'NOT MET'
    """
    found = [run["claim"]["status"] for run in runs if "claim" in run]
    mark = next((status for status in ("not met", "not measured", "met", "none made") if status in found), "-")
    return "NOT MET" if mark == "not met" else mark


def union_table(data: dict[str, Any]) -> Table:
    """
    One row per defence: the share of images that no attack broke in any of the norms.

    :param data: Content of `results.json`.
    :return: The table; without rows if there is one norm only.
    """
    groups = group_runs(data) if len(threats_of(data["config"])) > 1 else {}
    sizes: list[dict[str, float]] = []
    for runs in groups.values():
        sizes += [case["eps"] for run in runs for case in run.get("union", []) if case["eps"] not in sizes]
    header = ["defence", *[", ".join(f"{norm} {eps:.4g}" for norm, eps in size.items()) for size in sizes]]
    rows = []
    for name, runs in groups.items():
        cases = [[case for run in runs for case in run.get("union", []) if case["eps"] == size] for size in sizes]
        rows.append([name, *map(with_interval, cases)])
    return Table(header, rows if sizes else [])


def noise_table(data: dict[str, Any]) -> Table:
    """
    One row per defence: accuracy under random noise of each size.

    :param data: Content of `results.json`.
    :return: The table.
    """
    threats = [(threat.norm, eps) for threat in threats_of(data["config"]) for eps in threat.eps]
    rows = []
    for name, runs in group_runs(data).items():
        noise = [row for run in runs for row in run.get("random_noise", [])]
        found = [[row["accuracy"] for row in noise if (row["norm"], row["eps"]) == threat] for threat in threats]
        if any(found):
            rows.append([name, *[percent(shares) if shares else "-" for shares in found]])
    return Table(["defence", *[f"{norm} {eps:.4g}" for norm, eps in threats]], rows)


def gap_table(data: dict[str, Any]) -> Table:
    """
    One row per preprocessing defence and size: what ART's gradient attacks leave by default, and with BPDA and EOT.

    :param data: Content of `results.json`.
    :return: The table; without rows if the run has no such defence.
    """
    rows = []
    names = [name for name in data["config"]["attacks"] if ATTACKS[name].art and not ATTACKS[name].black_box]
    for name, runs in group_runs(data).items():
        for threat in threats_of(data["config"]):
            for eps in threat.eps:
                pairs = [_both_views(run, names, threat.norm, eps) for run in runs]
                found = [pair for pair in pairs if pair is not None]
                if found:
                    default, adaptive = ([pair[i] for pair in found] for i in range(2))
                    gap = [first - second for first, second in found]
                    rows.append([name, f"{threat.norm} {eps:.4g}", *map(percent, (default, adaptive, gap))])
    return Table(["defence", "size", "as ART attacks it: %", "adaptively: %", "gap: points"], rows)


def _both_views(run: dict[str, Any], names: list[str], norm: str, eps: float) -> tuple[float, float] | None:
    """The smallest accuracy after an attack that ran in both views on the same images, in each view."""
    found: dict[str, dict[str, dict[str, Any]]] = {"default": {}, "adaptive": {}}
    for row in run["attacks"]:
        if row["attack"] in names and (row["norm"], row["eps"]) == (norm, eps) and row["mask"]:
            found[row.get("view", "default")][row["attack"]] = row
    both = found["default"].keys() & found["adaptive"].keys()
    n = max((found["default"][name]["n"] for name in both), default=0)
    both = {name for name in both if found["default"][name]["n"] == n}
    if not both:
        return None
    lowest = [min(rows[name]["robust_accuracy"] for name in both) for rows in found.values()]
    return lowest[0], lowest[1]


def attack_table(data: dict[str, Any], norm: str, eps: float) -> Table:
    """
    One row per defence and view, one column per attack, at one size.

    :param data: Content of `results.json`.
    :param norm: Name of the norm.
    :param eps: Attack size.
    :return: The table; a star marks attacks on part of the images only.
    """
    names = data["config"]["attacks"]
    rows = []
    for name, runs in group_runs(data).items():
        entries = [row for run in runs for row in run["attacks"] if (row["norm"], row["eps"]) == (norm, eps)]
        views = sorted({row.get("view", "default") for row in entries}, reverse=True)
        for view in views:
            seen = [row for row in entries if row.get("view", "default") == view]
            label = name if len(views) == 1 else f"{name} ({'ART' if view == 'default' else 'adaptive'})"
            cells = [_attack_cell([row for row in seen if row["attack"] == attack], data) for attack in names]
            rows.append([label, *cells])
    return Table([f"{norm} {eps:.4g}", *names], rows)


def _attack_cell(found: list[dict[str, Any]], data: dict[str, Any]) -> str:
    filled = [entry for entry in found if entry["mask"]]
    if not filled:
        return "failed" if any(entry.get("status", "error") == "error" for entry in found) else "-" if found else ""
    part = any(entry["n"] < data["config"]["test_size"] for entry in filled)
    return percent([entry["robust_accuracy"] for entry in filled]) + ("*" if part else "")


def audit_table(data: dict[str, Any]) -> Table:
    """
    The verdict of each audit, one row a run; of many failed checks the first ones.

    :param data: Content of `results.json`.
    :return: The table, without rows if nothing was audited.
    """

    def short(verdict: str) -> str:
        parts = verdict.split(", ")
        return verdict if len(parts) < 4 else f"{', '.join(parts[:2])} and {len(parts) - 2} more"

    rows = [[run_name(run, data), short(run["audit"]["verdict"])] for run in data["runs"] if run.get("audit")]
    return Table(["defence", "verdict"], rows, words=("verdict",))


def audit_details(data: dict[str, Any]) -> list[tuple[str, Table, list[str]]]:
    """
    Every audit, check by check.

    :param data: Content of `results.json`.
    :return: For each run that was audited: a heading, a table, and what to do about the checks that did not pass.
    """
    details = []
    for run in data["runs"]:
        if run.get("audit") and run["audit"]["checks"]:
            report = AuditReport.from_dict(run["audit"])
            details.append((f"Audit of {run_name(run, data)}: {report.verdict}", report.table(), report.advice()))
    return details


def run_name(run: dict[str, Any], data: dict[str, Any]) -> str:
    """
    How a run is called in a table.

    :param run: The run.
    :param data: Content of `results.json`.
    :return: Its defence, and its seed if there are several.
    """
    return run["defence"] if data["config"]["seeds"] == 1 else f"{run['defence']} (seed {run['seed']})"


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
    lines += data.get("left_out", [])
    lines += _attacks_left_out(data)
    return [one_line(line) for line in lines]


def _attacks_left_out(data: dict[str, Any]) -> list[str]:
    lines = []
    for threat in threats_of(data["config"]):
        names = [name for name in data["config"]["attacks"] if threat.norm not in ATTACKS[name].norms]
        lines += [f"{name}: not defined in {threat.norm}, left out there" for name in names]
    for run in data["runs"]:
        notes = [*run.get("notes", []), *([run["measure_error"]] if "measure_error" in run else [])]
        lines += [f"{run['defence']} (seed {run['seed']}): {note}" for note in notes]
        reasons: dict[tuple[str, str], None] = {}
        for row in run["attacks"]:
            if row.get("status") == "not_applicable":
                view = " as ART attacks it" if any(other.get("view") == "adaptive" for other in run["attacks"]) else ""
                reasons[f"{row['attack']}{view}", row["reason"]] = None
        lines += [
            f"{run['defence']} (seed {run['seed']}): {attack} not applicable: {reason}" for attack, reason in reasons
        ]
    return lines


def percent(shares: list[float]) -> str:
    """
    Shares of several seeds as text: their mean in percent, and their spread.

    :param shares: One for each seed.
    :return: Text.

    Example:
    >>> from art_sensreg.benchmark.results.tables import percent
    >>> percent([0.5]), percent([0.5, 0.52])
    ('50.0', '51.0 ± 1.4')
    """
    text = f"{100 * fmean(shares):.1f}"
    if len(shares) > 1:
        mean = fmean(shares)
        spread = (sum((share - mean) ** 2 for share in shares) / (len(shares) - 1)) ** 0.5
        text += f" ± {100 * spread:.1f}"
    return text


def with_interval(cases: list[dict[str, Any]]) -> str:
    """
    Cases of several seeds as text, with Wilson's interval.

    :param cases: One for each seed, as in `worst_case`.
    :return: Text; a dash if there are none.
    """
    if not cases:
        return "-"
    shares = [case["robust_accuracy"] for case in cases]
    # Seeds share their test points: the interval is that of one run at the mean, and the spread stands beside it.
    n = cases[0]["n"]
    low, high = wilson_interval(round(fmean(shares) * n), n)
    return f"{percent(shares)} [{100 * low:.1f}, {100 * high:.1f}]"
