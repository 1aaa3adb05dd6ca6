"""The pages of an experiment, made from its records at any time: `results.json`, `report.md`, the pictures."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from art_sensreg.benchmark.results.extra_tables import audit_details, extra_tables
from art_sensreg.benchmark.results.masks import summarised
from art_sensreg.benchmark.results.plots import plot_robustness
from art_sensreg.benchmark.results.records import Results, RunRecord
from art_sensreg.benchmark.results.summary import trained_runs
from art_sensreg.benchmark.results.tables import explanations, noise_table, percent, summary_table
from art_sensreg.benchmark.results.writing import results_json, write_text
from art_sensreg.benchmark.studies.compare_defences import comparison_table
from art_sensreg.benchmark.studies.experiments.attack_units import base_attack
from art_sensreg.benchmark.studies.experiments.cell import Laboratory
from art_sensreg.benchmark.studies.experiments.declaration import Experiment
from art_sensreg.benchmark.studies.experiments.equal_cost import points_of, write_equal_cost
from art_sensreg.benchmark.studies.experiments.goals import goal_table
from art_sensreg.utils.tables import Table


def collected(laboratory: Laboratory) -> Results:
    """All records of an experiment as the results of one run of the suite, with the step costs that were measured."""
    options = {name: chosen for row in laboratory.rows for name, chosen in laboratory.settings(row).options.items()}
    folder, settings = laboratory.folder, replace(laboratory.plan.settings, options=options)
    costs = folder.costs()
    found = Results(config=settings, environment={}, left_out=tuple(laboratory.left_out))
    for row in laboratory.rows:
        for seed in range(row.seeds):
            store = laboratory.cell(row, seed).suite.store
            run = store.results.run(row.name, seed)
            if run is not None:
                run = summarised(folder.out, run, settings.threats)
                of_its_length = row.of if laboratory.experiment.budgets else None
                run = _with_cost(run, costs.get(of_its_length or row.name))
                if not _attacked(laboratory):  # the other experiment's pages show the rest
                    run = replace(
                        run, attacks=(), worst_case=(), union=None, audit=None, random_noise=None, certified=None
                    )
                found = replace(found.with_run(run), environment=found.environment or store.results.environment)
    return found


def _with_cost(run: RunRecord, cost: Mapping[str, Any] | None) -> RunRecord:
    if cost is None:
        return run
    ratios = tuple(float(one["ratio"]) for one in cost["rounds"])
    return replace(run, step_cost=float(cost["step_cost"]), step_cost_repeats=ratios)


def write_pages(laboratory: Laboratory, equal_cost: Experiment | None = None) -> list[Path]:
    """
    Write `results.json`, `report.md` and the pictures; the paths. Nothing is written before anything was trained. Of
    `equal_cost`, an experiment with budgets, also `equal-cost.json` and its pictures.
    """
    results, out = collected(laboratory), laboratory.folder.out
    if not trained_runs(results):
        return []
    name = "" if laboratory.experiment.folder is None else f"-{laboratory.experiment.name}"
    first, pictures = list[tuple[str, Table]](), list[str]()
    if equal_cost is not None:
        costs = laboratory.folder.costs()
        first, pictures = write_equal_cost(points_of(equal_cost, results, costs), out)
    for threat in results.config.threats:
        attacked = any(case.norm == threat.norm for run in results.runs for case in run.worst_case)
        if attacked and equal_cost is None:
            pictures.append(f"robustness-{threat.norm}{name}.png")
            plot_robustness(results, out / pictures[-1], threat)
    write_text(out / f"results{name}.json", results_json(results))
    write_text(out / f"report{name}.md", page(laboratory, results, pictures, first))
    return [out / file for file in (f"results{name}.json", f"report{name}.md", *pictures)]


def _attacked(laboratory: Laboratory) -> bool:
    """Whether the experiment attacks its rows itself, rather than share models that another one attacks."""
    return any(row.points != 0 for row in laboratory.rows)


def page(laboratory: Laboratory, results: Results, pictures: list[str], first: list[tuple[str, Table]]) -> str:
    """The page; the tables `first` stand before those that every experiment has."""
    config, experiment = results.config, laboratory.experiment
    part = "held-out training images" if config.validation else "test images"
    what = (
        f"Clean accuracy is that of {config.test_size} {part}; the first of them are attacked, as many as `n` says. "
        "Worst case: share of them that no attack broke, mean over the seeds (those that have the most images) ± "
        "standard deviation, with Wilson's 95 % interval of one seed. Step cost: time of a step over that of a plain "
        "one, of whole epochs between plain steps."
    )
    if not _attacked(laboratory):
        what = f"Scores of the first {part}; what attacks leave of the same models is in [their report](report.md)."
    lines = [
        f"# {experiment.title}",
        "",
        f"By `python benchmarks/experiment.py {experiment.name}`. {what}",
        "",
        *_trained_how(laboratory),
    ]
    tables = [*first]
    if _attacked(laboratory):
        tables.append(("All rows" if first else "", summary_table(results)))
        tables.append(("Goals, fixed beforehand", goal_table(results, experiment.goals)))
        tables.append(("How far it is", progress_table(results)))
    tables.append(("Variants, image by image", ablation_table(laboratory, results)))
    tables += [("What the aimed attacks gain over AutoAttack", gain_table(results)), *extra_tables(results, wide=False)]
    tables.append(("Random noise of each size: accuracy in %, mean over 10 draws", noise_table(results)))
    for heading, table in tables:
        if table.rows:
            lines += [*([f"## {heading}", ""] if heading else []), table.as_markdown(), ""]
    for heading, table, advice in audit_details(results):
        lines += [f"## {heading}", "", table.as_markdown(), "", *(f"- {line}" for line in advice), ""]
    lines += [f"![{picture}]({picture})" for picture in pictures]
    notes = explanations(results)
    lines += ["", *(f"- {line}" for line in notes)] if notes else []
    return "\n".join(lines).rstrip() + "\n"


def _trained_how(laboratory: Laboratory) -> list[str]:
    """How long the rows are trained, and what is special about some; the epochs of budgets are in their tables."""
    budgets = bool(laboratory.experiment.budgets)
    changed = dict[str, str]()
    for row in laboratory.rows:
        special = {**({} if budgets else row.settings), **laboratory.settings(row).options.get(row.name, {})}
        if special:
            values = ", ".join(f"{name} {value}" for name, value in special.items())
            changed[str(row.of if budgets else row.name)] = values
    length = "Trained" if budgets else f"Trained for {laboratory.plan.settings.epochs} epochs,"
    lines = [f"- {name}: {values}" for name, values in changed.items()]
    but = " but for these rows:" if lines else "."
    return [f"{length} with the suite's defaults{but}", "", *lines, *[""] * bool(lines)]


def ablation_table(laboratory: Laboratory, results: Results) -> Table:
    """Each variant against the row that it is a variant of, image by image, as far as both were attacked alike."""
    rows = []
    for row in laboratory.rows:
        if row.of not in (None, row.name) and not laboratory.experiment.budgets:
            with suppress(ValueError):  # not attacked yet, or not on the same images
                table = comparison_table(results, laboratory.folder.out, str(row.of), row.name)
                rows += [[row.name, str(row.of), *cells] for cells in table.rows]
    header = ["variant", "against", "eps", "that one: %", "variant: %", "difference [95 % CI]", "by seed", "images"]
    return Table(header, rows, words=("against",))


def progress_table(results: Results) -> Table:
    """Seeds that are trained, and images that AutoAttack has seen at each size, of each row."""
    sizes = [(threat.norm, eps) for threat in results.config.threats for eps in threat.eps]
    rows = []
    for name, runs in trained_runs(results).items():
        seen = []
        for size in sizes:
            found = [case.n for run in runs for case in run.worst_case if case.threat == size]
            seen.append(" + ".join(map(str, found)) or "-")
        rows.append([name, str(len(runs)), *seen])
    return Table(["row", "seeds", *(f"n, {norm} {eps:.4g}" for norm, eps in sizes)], rows)


def gain_table(results: Results) -> Table:
    """
    For each row that was attacked by aimed attacks: what AutoAttack left of all images, how many of the survivors that
    they saw each of them broke, and their union in points of all images.
    """
    names = [name for name in results.config.attacks if not name.startswith("autoattack")]
    rows = []
    for name, runs in trained_runs(results).items():
        for run in runs:
            base = next((one for one in run.attacks if one.attack == base_attack(name)), None)
            aimed = [one for one in run.attacks if one.attack in names]
            if not aimed or base is None:
                continue
            threat = aimed[0].threat
            left = next(one for one in run.attacks if one.attack == base.attack and one.threat == threat)
            aimed = [one for one in aimed if one.n == left.n]  # or AutoAttack has gone on since
            if not aimed:
                continue
            broken = {
                one.attack: round((_share(left.robust_accuracy) - _share(one.robust_accuracy)) * left.n)
                for one in aimed
            }
            worst = next(case for case in run.worst_case if case.threat == threat)
            seen = fmean(one.seen or 0 for one in aimed)
            union = round((_share(left.robust_accuracy) - worst.robust_accuracy) * left.n)
            gain = 100 * union / seen * _share(left.robust_accuracy) if seen else 0.0
            rows.append(
                [
                    f"{name} (seed {run.seed})", f"{threat[0]} {threat[1]:.4g}",
                    percent([_share(left.robust_accuracy)]),
                    *(f"{broken[attack]}" if attack in broken else "-" for attack in names),
                    f"{union} of {seen:.0f}", f"{gain:.1f}",
                ]
            )  # fmt: skip
    return Table(["row", "size", "AutoAttack %", *names, "union: broken of seen", "points of all images"], rows)


def _share(value: float | None) -> float:
    return value or 0.0
