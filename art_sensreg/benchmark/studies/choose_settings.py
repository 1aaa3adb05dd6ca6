"""Choose the settings of a defence on held-out training images (`benchmarks/choose_settings.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from art_sensreg.benchmark.config.request import SuiteRequest
from art_sensreg.benchmark.engine.suite import run_suite
from art_sensreg.benchmark.results.entries import WorstCase
from art_sensreg.benchmark.results.records import RunRecord
from art_sensreg.benchmark.results.tables import summary_table
from art_sensreg.utils.tables import Table

Settings = dict[str, float]

_SR_JR = [
    {"sigma": sigma, "sr_weight": sr_weight, "jr_weight": jr_weight}
    for sigma, sr_weight, jr_weight in (
        (0.1, 1.0, 0.1),
        (0.2, 1.0, 0.1),
        (0.3, 1.0, 0.1),
        (0.4, 1.0, 0.1),
        (0.3, 0.3, 0.1),
        (0.3, 3.0, 0.1),
        (0.3, 1.0, 0.03),
        (0.3, 1.0, 0.3),
    )
]
_JR = [{"jr_weight": weight} for weight in (0.01, 0.1, 0.3)]
# Between clean and adversarial images: these are a whole budget apart, so that smaller weights will do.
_HYBRID = [
    {"sr_weight": sr_weight, "jr_weight": jr_weight, "clean_fraction": clean_fraction}
    for sr_weight, jr_weight, clean_fraction in (
        (0.1, 0.01, 0.5),
        (0.1, 0.01, 0.0),
        (0.03, 0.003, 0.5),
        (0.03, 0.003, 0.0),
        (0.3, 0.03, 0.5),
        (0.3, 0.03, 0.0),
    )
]
_CARRIED = [
    {"sr_weight": sr_weight, "jr_weight": sr_weight / 10}  # as far apart as in the presets
    for sr_weight in (0.15, 0.03, 0.01)
]
GRIDS: dict[str, list[Settings]] = {
    "sr+jr": _SR_JR,
    "jr": _JR,
    "fire": [{"weight": weight} for weight in (1.0, 2.0, 5.0, 10.0)],
    "adv-bnn": [{"kl_weight": weight} for weight in (0.001, 0.004, 0.02, 0.1)],
    "carried+sr+jr": _CARRIED,
    "at+sr+jr": _HYBRID,
    "n-fgsm+sr+jr": _HYBRID,
}

RULE = """Rule: candidates whose clean accuracy is more than one point below the highest are out. Of the others, the
best one has the highest worst case, mean over eps. Of those whose intervals overlap with the best one's at every eps,
the one with the smallest sum of weights is chosen (the larger mean decides a tie)."""


def chosen(candidates: Sequence[tuple[Settings, RunRecord]]) -> Settings:
    """Apply the rule to pairs of settings and runs."""
    trained = [(options, run.worst_case, run.clean_accuracy or 0.0) for options, run in candidates]
    highest = max(clean for *_, clean in trained)
    accurate = [(options, cases) for options, cases, clean in trained if clean > highest - 0.0101]

    def mean(cases: Sequence[WorstCase]) -> float:
        return fmean(case.robust_accuracy for case in cases)

    def overlaps(cases: Sequence[WorstCase]) -> bool:
        return all(a.ci_low <= b.ci_high and b.ci_low <= a.ci_high for a, b in zip(cases, best, strict=True))

    def weight(options: Settings) -> float:
        return sum(value for name, value in options.items() if name.endswith("weight"))

    best = max((cases for _, cases in accurate), key=mean)
    near = [pair for pair in accurate if overlaps(pair[1])]
    return min(near, key=lambda pair: (weight(pair[0]), -mean(pair[1])))[0]


def try_candidates(request: SuiteRequest, defence: str, out: Path) -> tuple[Table, Settings]:
    """
    Run the suite for each candidate of a defence, in a folder of its own, on held-out training images.

    :return: A table of the candidates, and the settings that the rule chooses.
    :raises RuntimeError: If one of them fails.
    """
    rows, header, candidates = [], list[str](), []
    for number, settings in enumerate(GRIDS[defence]):
        folder = out / f"{defence}-{number}"
        results = run_suite(
            replace(request, validation=True, defences=(defence,), options={defence: settings}, out=folder, resume=True)
        )
        if results.runs[0].status == "error":
            raise RuntimeError(f"candidate {settings} failed: see {folder}")
        table = summary_table(results)
        shown = range(1, 1 + sum("worst case" in name or name == "clean %" for name in table.header))
        header = [*settings, *(table.header[column] for column in shown)]
        rows.append([*map(str, settings.values()), *(table.rows[0][column] for column in shown)])
        candidates.append((settings, results.runs[0]))
    return Table(header, rows), chosen(candidates)
