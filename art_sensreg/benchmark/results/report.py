"""Report of a run: the plots, `report.md` and `report.html`, all made from its results."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from art_sensreg.benchmark.config.settings import SALIENCY, SuiteSettings
from art_sensreg.benchmark.results.extra_tables import audit_details, extra_tables
from art_sensreg.benchmark.results.merge import Merged, merge_results, repeats_line, repeats_table
from art_sensreg.benchmark.results.page import page_html
from art_sensreg.benchmark.results.plots import plot_curve, plot_robustness
from art_sensreg.benchmark.results.records import Results
from art_sensreg.benchmark.results.tables import detail_tables, explanations, summary_table
from art_sensreg.benchmark.results.writing import write_text
from art_sensreg.utils.files import usable_folder
from art_sensreg.utils.text import escape_markdown, fenced

logger = logging.getLogger(__name__)

_CLAIM = (
    "Shown: where the worst case is above that of another model of this run, by more than the sampling error (95 %) of "
    "these images. It is no approval: see the interval, and the audit."
)
_PART = "* attacked on part of the images only."
_ORDER = (
    " Each attack sees only the images that the attacks to its left have not broken, so its column is what is left "
    "after all of them; with --all-points every attack sees every image. Preprocessing is attacked by ART's gradient "
    "attacks first, then by its black-box ones, then by the others."
)


def write_report(folders: Sequence[Path | str], out: Path | str) -> list[Path]:
    """
    Write `report.html`, `report.md`, `robustness.png` (and `robustness-NORM.png` of every further norm) from stored
    results alone. Without matplotlib, `report.md` only.

    :param folders: Output folders of the suite, or `results.json` files, whose settings belong into one table: runs of
        several are merged; of a defence and seed that several have, the first is shown and the others are compared.
    :param out: Output folder.
    :return: The paths.
    :raises ValueError: If the results cannot be read or merged.
    :raises OSError: If a file cannot be written.
    """
    merged = merge_results(folders)
    results = merged.results
    out = usable_folder("--out", Path(out))
    title, notes = _title(results.config), _notes(results)
    write_text(out / "report.md", _markdown(merged, title, notes))
    if find_spec("matplotlib") is None:
        logger.warning("The plots and report.html are left out; they need matplotlib: pip install 'art_sensreg[bench]'")
        return [out / "report.md"]
    pictures = [out / picture for picture in _draw(results, out)]
    write_text(out / "report.html", page_html(merged, title, notes))
    return [*pictures, out / "report.md", out / "report.html"]


def _markdown(merged: Merged, title: str, notes: str) -> str:
    from jinja2 import Environment

    results, again = merged.results, repeats_table(merged)
    content: dict[str, Any] = {
        "title": title,
        "notes": notes,
        "commands": results.commands,
        "tables": [
            ("Worst case", summary_table(results)),
            *extra_tables(results),
            *detail_tables(results),
            *([(f"Measured again: {repeats_line(merged)}", again)] if again else []),
        ],
        "claim": _CLAIM,
        "footnote": _PART + ("" if results.config.all_points else _ORDER),
        "lines": explanations(results),
        "audits": audit_details(results),
        "environments": [source.results.environment for source in merged.sources],
    }
    environment = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters.update(md=escape_markdown, fenced=fenced)
    template = files(__package__).joinpath("templates", "report.md").read_text(encoding="utf-8")
    return str(environment.from_string(template).render(content))


def _draw(results: Results, out: Path) -> list[str]:
    """The plots as files of their own; of the saliency maps, those that the run has drawn."""
    pictures = []
    for number, threat in enumerate(results.config.threats):
        pictures.append("robustness.png" if number == 0 else f"robustness-{threat.norm}.png")
        plot_robustness(results, out / pictures[-1], threat)
    if any(run.eot_curve for run in results.runs):
        pictures.append("eot-curve.png")
        plot_curve(results, out / pictures[-1])
    return pictures + ([SALIENCY] if (out / SALIENCY).exists() else [])


def _title(config: SuiteSettings) -> str:
    return f"{Path(config.dataset).stem}, {config.model}, {', '.join(threat.norm for threat in config.threats)}"


def _notes(results: Results) -> str:
    config = results.config
    part = "held-out training images" if config.validation else "test images"
    # Files of earlier versions have no repeats: plain steps were timed once before training and once after it.
    in_turn = any(run.step_cost_repeats for run in results.runs)
    timed = "timed in turn, with quartiles" if in_turn else "timed just before and after"
    return (
        f"First {config.test_size} {part}; {config.epochs} epochs; seeds: {config.seeds}; budget {config.budget}. "
        "Worst case: share of the images that no attack of the suite broke, with Wilson's 95 % interval. Step cost: "
        f"time of a training step over that of a plain cross-entropy step, {timed}. Training and "
        f"attacks took {total_minutes(results):.1f} minutes, those of processes side by side added up."
        f"{_options_note(config)}"
    )


def _options_note(config: SuiteSettings) -> str:
    """What single rows have that others have not: given options, and how the data set's recipe optimises them."""
    names = [name for name in config.options if name in config.defences and config.options[name]]
    rows = "; ".join(
        f"{name}: {', '.join(f'{option} {value}' for option, value in config.options[name].items())}" for name in names
    )
    return f" Options of individual rows (given, or from the data set's recipe): {rows}." if rows else ""


def total_minutes(results: Results) -> float:
    """Time of all training and attacks; a minimal-norm attack, one run of which answers several sizes, counts once."""
    seconds = 0.0
    for run in results.runs:
        seconds += run.train_seconds or 0.0
        seconds += sum({(attack.attack, attack.seconds): attack.seconds for attack in run.attacks}.values())
    return seconds / 60
