"""Report of a run: the plot, `report.md` and `report.html`, all made from `results.json`."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from art_sensreg.benchmark.config.settings import SALIENCY
from art_sensreg.benchmark.config.threat_models import Threat, threats_of
from art_sensreg.benchmark.results.extra_tables import extra_tables
from art_sensreg.benchmark.results.tables import (
    attack_table,
    audit_details,
    explanations,
    group_runs,
    noise_table,
    summary_table,
)
from art_sensreg.benchmark.results.writing import save_picture, write_text
from art_sensreg.utils.text import escape_markdown, fenced

_HTML = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 } td, th { padding: .3em .8em; border-bottom: 1px solid #ddd }
td:not(:first-child), th:not(:first-child) { text-align: right } img { max-width: 100% }
.audit td:last-child, .audit th:last-child, .audit td:nth-child(2) { text-align: left }
.FAIL td, .ERROR td { background: #fde8e8 } code { background: #f4f4f4 }
</style></head><body>
<h1>{{ title }}</h1>
<p>{{ notes }}</p>
<p><code>{{ command }}</code></p>
{% for heading, table in tables %}<h2>{{ heading }}</h2>
<table><tr>{% for cell in table.header %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for row in table.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>{% endfor %}
<p>{{ footnote }}</p>
{% if lines %}<h2>Not in the table</h2><ul>{% for line in lines %}<li>{{ line }}</li>{% endfor %}</ul>{% endif %}
<h2>Pictures: worst case over eps, and what else was drawn</h2>{% for picture in pictures %}
<img src="{{ picture }}" alt="{{ picture }}">{% endfor %}
{% for heading, table, advice in audits %}<h2>{{ heading }}</h2>
<table class="audit"><tr>{% for cell in table.header %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for row in table.rows %}<tr class="{{ row[1] }}">{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% if advice %}<ul>{% for line in advice %}<li>{{ line }}</li>{% endfor %}</ul>{% endif %}{% endfor %}
<h2>Environment</h2><p>{% for name, value in environment.items() %}{{ name }} {{ value }}; {% endfor %}</p>
</body></html>
"""


def write_report(data: dict[str, Any], out: Path, command: str) -> list[Path]:
    """
    Write `robustness.png` (and `robustness-NORM.png` of every further norm), `report.md` and `report.html`.

    :param data: Content of `results.json`.
    :param out: Output folder.
    :param command: The command that made the results.
    :return: The paths.
    """
    from jinja2 import Environment

    config = data["config"]
    part = "held-out training images" if config["validation"] else "test images"
    threats = threats_of(config)
    title = f"{Path(config['dataset']).stem}, {config['model']}, {', '.join(threat.norm for threat in threats)}"
    notes = (
        f"First {config['test_size']} {part}; {config['epochs']} epochs; seeds: {config['seeds']}; budget "
        f"{config['budget']}. Worst case: share of the images that no attack of the suite broke, with Wilson's 95 % "
        "interval. Step cost: time of a training step over that of a plain cross-entropy step, timed just before and "
        f"after. Training and attacks took {total_minutes(data):.1f} minutes, those of processes side by side added up."
    )
    tables = [("Worst case", summary_table(data)), *extra_tables(data)]
    cumulative = "" if config.get("all_points", True) else ", after this attack and those to its left"
    for threat in threats:
        for eps in threat.eps:
            heading = f"Each attack at {threat.norm} {eps:.4g}: robust accuracy in %{cumulative}"
            tables.append((heading, attack_table(data, threat.norm, eps)))
    noise = noise_table(data)
    tables += [("Random noise of each size: accuracy in %, mean over 10 draws", noise)] if noise.rows else []
    lines, audits = explanations(data), audit_details(data)
    pictures = {threat.norm: f"robustness-{threat.norm}.png" for threat in threats}
    pictures[threats[0].norm] = "robustness.png"
    for threat in threats:
        plot_robustness(data, out / pictures[threat.norm], threat)
    if any(run.get("eot_curve") for run in data["runs"]):
        pictures["draws"] = "eot-curve.png"
        plot_curve(data, out / pictures["draws"])
    if (out / SALIENCY).exists():
        pictures["saliency"] = SALIENCY
    pages = [out / "report.md", out / "report.html"]
    markdown = [f"# {escape_markdown(title)}", escape_markdown(notes), fenced(command)]
    markdown += [f"## {escape_markdown(heading)}\n\n{table.as_markdown()}" for heading, table in tables]
    markdown += [f"\\{_footnote(config)}"]
    markdown += [f"## Not in the table\n\n{_bullets(lines)}"] if lines else []
    for heading, table, advice in audits:
        markdown += [f"## {escape_markdown(heading)}\n\n{table.as_markdown()}", *([_bullets(advice)] if advice else [])]
    about = ", ".join(f"{name} {value}" for name, value in data["environment"].items())
    markdown += [f"Environment: {escape_markdown(about)}."]
    write_text(pages[0], "\n\n".join(markdown) + "\n")
    template = Environment(autoescape=True).from_string(_HTML)
    page = template.render(
        title=title,
        notes=notes,
        command=command,
        tables=tables,
        footnote=_footnote(config),
        lines=lines,
        audits=audits,
        pictures=list(pictures.values()),
        environment=data["environment"],
    )
    write_text(pages[1], page)
    return [*(out / picture for picture in pictures.values()), *pages]


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"- {escape_markdown(line)}" for line in lines)


def _footnote(config: dict[str, Any]) -> str:
    text = "* attacked on part of the images only."
    if not config.get("all_points", True):
        text += (
            " Each attack sees only the images that the attacks to its left have not broken, so its column is what is "
            "left after all of them; with --all-points every attack sees every image. Preprocessing is attacked by "
            "ART's gradient attacks first, then by its black-box ones, then by the others."
        )
    return text


def total_minutes(data: dict[str, Any]) -> float:
    """
    Time of all training and attacks.

    :param data: Content of `results.json`.
    :return: Minutes; a minimal-norm attack, which one run fills several rows of, counts once.
    """
    seconds = 0.0
    for run in data["runs"]:
        seconds += run["train_seconds"] or 0.0
        seconds += sum({(row["attack"], row["seconds"]): row["seconds"] for row in run["attacks"]}.values())
    return seconds / 60


def plot_curve(data: dict[str, Any], path: Path) -> None:
    """
    Plot the robust accuracy of random models over the number of draws that the attacker averages.

    :param data: Content of `results.json`.
    :param path: PNG file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    curves = {
        name: [case for run in runs for case in run.get("eot_curve", [])] for name, runs in group_runs(data).items()
    }
    for number, (name, curve) in enumerate((name, curve) for name, curve in curves.items() if curve):
        for style, eps in zip(("-", "--", ":"), sorted({case["eps"] for case in curve}), strict=False):
            draws = sorted({case["samples"] for case in curve if case["eps"] == eps})
            shares = [
                fmean(case["robust_accuracy"] for case in curve if (case["eps"], case["samples"]) == (eps, n))
                for n in draws
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


def plot_robustness(data: dict[str, Any], path: Path, threat: Threat) -> None:
    """
    Plot the worst case over eps, one line per defence, with the clean accuracy at eps 0.

    :param data: Content of `results.json`.
    :param path: PNG file.
    :param threat: Norm and sizes.
    """
    from matplotlib.figure import Figure

    norm, sizes = threat.norm, threat.eps
    groups = group_runs(data)
    columns = -(-len(groups) // 24)
    figure = Figure(figsize=(7 + 2 * columns, 5 if columns == 1 else 7), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, runs) in enumerate(groups.items()):
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
            "marker": "os^Dvx"[number // 10 % 6],
        }
        axes.plot([eps for eps, _ in points], [100 * share for _, share in points], label=name, **style)
    axes.set_xlabel(f"eps ({norm})")
    axes.set_ylabel("worst case over the attacks, % of the images")
    axes.set_ylim(0, 101)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), ncols=columns, fontsize="small")
    save_picture(figure, path)
