"""The table of a run for papers, spreadsheets and leaderboards: LaTeX, Markdown, CSV, and RobustBench's JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from art_sensreg.benchmark.defences import DEFENCES
from art_sensreg.benchmark.results.merge import merge_results
from art_sensreg.benchmark.results.records import Results, RunRecord
from art_sensreg.benchmark.results.summary import Row, sizes_of, summary_rows
from art_sensreg.benchmark.results.tables import summary_table
from art_sensreg.benchmark.results.writing import json_text, write_text
from art_sensreg.utils import check_choice
from art_sensreg.utils.files import usable_folder
from art_sensreg.utils.text import escape_csv, one_line

# Norms as RobustBench calls them.
_THREATS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "±": r"$\pm$",
}  # fmt: skip


def write_exports(folders: Sequence[Path | str], out: Path | str, forms: Sequence[str]) -> list[Path]:
    """
    Write the table of one or several runs in other forms: `table.tex`, `table.md`, `table.csv`, `robustbench/*.json`.

    :param folders: Output folders of the suite, merged as by `write_report`.
    :param out: Output folder.
    :param forms: Some of :data:`EXPORTS`.
    :return: The paths.
    :raises ValueError: If a form is unknown or the results cannot be used.
    :raises OSError: If a file cannot be written.
    """
    for form in forms:
        check_choice("--export", form, EXPORTS)
    results = merge_results(folders).results
    out = usable_folder("--out", Path(out))
    written = []
    for form in dict.fromkeys(forms):
        for name, text in export_files(results, form).items():
            (out / name).parent.mkdir(exist_ok=True)
            write_text(out / name, text)
            written.append(out / name)
    return written


def export_files(results: Results, form: str) -> dict[str, str]:
    """The files of a form, by their names."""
    if form == "robustbench":
        return {f"robustbench/{name}.json": json_text(entry) for name, entry in robustbench_entries(results).items()}
    name, make = _TABLES[form]
    return {name: make(results)}


def latex_table(results: Results) -> str:
    """The table as a LaTeX `tabular`, with booktabs' rules."""
    table = summary_table(results)
    lines = [" & ".join(map(_latex, line)) + r" \\" for line in (table.header, *table.rows)]
    columns = "".join("l" if name in ("defence", "shown") else "r" for name in table.header)
    body = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
    return "\n".join(["% needs \\usepackage{booktabs}", *body, r"\end{tabular}"]) + "\n"


def csv_table(results: Results) -> str:
    """One line for each defence, seed and size, in numbers: shares from 0 to 1, seconds."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    names = ["defence", "seed", "norm", "eps", "clean_accuracy", "robust_accuracy", "ci_low", "ci_high", "n"]
    writer.writerow([*names, "step_cost", "train_seconds", "audit"])
    for run in results.runs:
        verdict = "" if run.audit is None else run.audit.verdict
        for case in run.worst_case:
            share = (case.robust_accuracy, case.ci_low, case.ci_high, case.n)
            cells = [run.defence, run.seed, case.norm, case.eps, run.clean_accuracy, *share]
            writer.writerow(map(escape_csv, [*cells, run.step_cost, run.train_seconds, verdict]))
    return file.getvalue()


def markdown_table(results: Results) -> str:
    """The table in Markdown."""
    return summary_table(results).as_markdown() + "\n"


def robustbench_entries(results: Results) -> dict[str, dict[str, Any]]:
    """
    An entry as those of RobustBench's `model_info` for each trained run and size, by its name.

    `autoattack_acc` is null unless the authors' standard AutoAttack was run at full budget on all images; `external`
    is the worst case over all attacks.

    | Paper link: https://arxiv.org/abs/2010.09670 (Croce et al. 2021)
    """
    return {
        f"{run.defence}-seed{run.seed}-{norm}-{eps:g}": _robustbench(results, row, run, (norm, eps))
        for row in summary_rows(results)
        for run in row.runs
        for norm, eps in sizes_of(results)
        if any(case.threat == (norm, eps) for case in run.worst_case)
    }


def _robustbench(results: Results, row: Row, run: RunRecord, size: tuple[str, float]) -> dict[str, Any]:
    config, defence = results.config, DEFENCES.get(run.defence)
    case = next(case for case in run.worst_case if case.threat == size)
    official = run.attack(("autoattack", *size, "default")) or run.attack(("autoattack", *size, "adaptive"))
    strict = config.budget == "full" and official is not None and official.n == case.n
    known = official.robust_accuracy if strict and official is not None else None
    notes = [
        f"trained and evaluated by art_sensreg: budget {config.budget}, seed {run.seed}, {case.n} images, "
        f"95 % interval {100 * case.ci_low:.2f} to {100 * case.ci_high:.2f}"
    ]
    if known is None:
        notes.append("no AutoAttack at full budget on all images; `external` is the worst case over the attacks run")
    elif not config.all_points:
        notes.append("AutoAttack saw the images that the attacks before it had left")
    notes += [f"{name} failed" for name in row.cells[size].failed]
    notes += [f"audit: {one_line(run.audit.verdict)}"] if run.audit is not None else []
    return {
        "link": None,
        "name": defence.summary if defence else run.defence,
        "authors": None,
        "additional_data": False,
        "number_forward_passes": 1,
        "dataset": run.dataset,
        "venue": defence.paper if defence else None,
        "architecture": config.model,
        "threat_model": _THREATS[size[0]],
        "eps": f"{size[1]:g}",
        "clean_acc": f"{100 * (run.clean_accuracy or 0.0):.2f}",
        "reported": None,
        "autoattack_acc": None if known is None else f"{100 * known:.2f}",
        "external": f"{100 * case.robust_accuracy:.2f}",
        "footnote": "; ".join(notes),
        "unreliable": run.audit is not None and run.audit.verdict.startswith("do not trust"),
    }


def _latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in one_line(text))


_TABLES: dict[str, tuple[str, Callable[[Results], str]]] = {
    "latex": ("table.tex", latex_table),
    "markdown": ("table.md", markdown_table),
    "csv": ("table.csv", csv_table),
}
EXPORTS = (*_TABLES, "robustbench")
