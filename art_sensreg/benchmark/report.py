"""Report of a run: the plot, `report.md` and `report.html`, all made from `results.json`."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from art_sensreg.benchmark.records import write_text
from art_sensreg.benchmark.tables import attack_table, explanations, group_runs, summary_table

_HTML = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 } td, th { padding: .3em .8em; border-bottom: 1px solid #ddd }
td:not(:first-child), th:not(:first-child) { text-align: right } img { max-width: 100% } code { background: #f4f4f4 }
</style></head><body>
<h1>{{ title }}</h1>
<p>{{ notes }}</p>
<p><code>{{ command }}</code></p>
{% for heading, table in tables %}<h2>{{ heading }}</h2>
<table><tr>{% for cell in table.header %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for row in table.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>{% endfor %}
<p>* attacked on part of the images only.</p>
{% if lines %}<h2>Not in the table</h2><ul>{% for line in lines %}<li>{{ line }}</li>{% endfor %}</ul>{% endif %}
<h2>Worst case over eps</h2><img src="robustness.png" alt="Robust accuracy over eps, one line per defence">
<h2>Environment</h2><p>{% for name, value in environment.items() %}{{ name }} {{ value }}; {% endfor %}</p>
</body></html>
"""


def write_report(data: dict[str, Any], out: Path, command: str) -> list[Path]:
    """
    Write `robustness.png`, `report.md` and `report.html`.

    :param data: Content of `results.json`.
    :param out: Output folder.
    :param command: The command that made the results.
    :return: The paths.
    """
    from jinja2 import Environment

    config = data["config"]
    part = "held-out training images" if config["validation"] else "test images"
    title = f"{Path(config['dataset']).stem}, {config['model']}, {config['norm']}"
    notes = (
        f"First {config['test_size']} {part}; {config['epochs']} epochs; seeds: {config['seeds']}; budget "
        f"{config['budget']}. Worst case: share of the images that no attack of the suite broke, with Wilson's 95 % "
        "interval. Step cost: time of a training step over that of a plain cross-entropy step, timed just before and "
        f"after. Training and attacks took {total_minutes(data):.1f} minutes."
    )
    tables = [("Worst case", summary_table(data))]
    tables += [(f"Each attack at {eps:.4g}: robust accuracy in %", attack_table(data, eps)) for eps in config["eps"]]
    lines = explanations(data)
    paths = [out / "robustness.png", out / "report.md", out / "report.html"]
    plot_robustness(data, paths[0])
    markdown = [f"# {title}", notes, f"```\n{command}\n```"]
    markdown += [f"## {heading}\n\n{table.as_markdown()}" for heading, table in tables]
    markdown += ["\\* attacked on part of the images only."]
    markdown += ["## Not in the table\n\n" + "\n".join(f"- {line}" for line in lines)] if lines else []
    markdown += ["Environment: " + ", ".join(f"{name} {value}" for name, value in data["environment"].items()) + "."]
    write_text(paths[1], "\n\n".join(markdown) + "\n")
    template = Environment(autoescape=True).from_string(_HTML)
    page = template.render(
        title=title, notes=notes, command=command, tables=tables, lines=lines, environment=data["environment"]
    )
    write_text(paths[2], page)
    return paths


def total_minutes(data: dict[str, Any]) -> float:
    """
    Time of all training and attacks.

    :param data: Content of `results.json`.
    :return: Minutes; a minimal-norm attack, which one run fills several rows of, counts once.
    """
    seconds = 0.0
    for run in data["runs"]:
        seconds += run["train_seconds"] or 0.0
        seconds += sum({(attack["attack"], attack["seconds"]): attack["seconds"] for attack in run["attacks"]}.values())
    return seconds / 60


def plot_robustness(data: dict[str, Any], path: Path) -> None:
    """
    Plot the worst case over eps, one line per defence, with the clean accuracy at eps 0.

    :param data: Content of `results.json`.
    :param path: PNG file.
    """
    from matplotlib.figure import Figure

    norm, sizes = data["config"]["norm"], data["config"]["eps"]
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, runs) in enumerate(group_runs(data).items()):
        points = [(0.0, fmean(run["clean_accuracy"] for run in runs))]
        for eps in sizes:
            shares = [
                case["robust_accuracy"]
                for run in runs
                for case in run["worst_case"]
                if (case["norm"], case["eps"]) == (norm, eps)
            ]
            if shares:
                points.append((eps, fmean(shares)))
        ours = not name.startswith("art-")
        style: dict[str, Any] = {
            "linestyle": "-" if ours else "--",
            "color": f"C{number % 10}",
            "marker": "o" if number < 10 else "s",
        }
        axes.plot([eps for eps, _ in points], [100 * share for _, share in points], label=name, **style)
    axes.set_xlabel(f"eps ({norm})")
    axes.set_ylabel("worst case over the attacks, % of the images")
    axes.set_ylim(0, 101)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=120)
