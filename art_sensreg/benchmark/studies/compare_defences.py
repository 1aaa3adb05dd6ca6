"""Compare two defences of one run of the suite image by image (`benchmarks/compare_defences.py`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from art_sensreg.benchmark.results.masks import joint_outcome
from art_sensreg.benchmark.results.records import Results, RunRecord
from art_sensreg.utils.checks import did_you_mean
from art_sensreg.utils.stats import mean_half_width
from art_sensreg.utils.tables import Table


def comparison_table(results: Results, folder: Path, first: str, second: str) -> Table:
    """
    Robust accuracy of two defences at each size of the first norm, and the mean difference over the images.

    The same attacks ran on the same images with the same training seeds: the difference is taken for each image, so
    that the interval is that of the difference and not of two separate shares.

    :raises ValueError: If no seed has both, or one of them was not attacked.
    """
    runs = {name: {run.seed: run for run in results.runs if run.defence == name} for name in (first, second)}
    seeds = sorted(set(runs[first]) & set(runs[second]))
    if not seeds:
        known = {run.defence for run in results.runs}
        unknown = [name for name in runs if name not in known]
        hint = did_you_mean(unknown[0], known) if unknown else ""
        raise ValueError(f"no seed has both {first} and {second} in {folder}{hint}")
    threat, rows = results.config.threats[0], []
    for eps in threat.eps:
        pairs = [[_outcomes(folder, runs[name][seed], (threat.norm, eps)) for name in runs] for seed in seeds]
        shares = 100 * np.array([[outcomes.mean() for outcomes in pair] for pair in pairs])
        # The images are a sample, the seeds are not: each image counts with its mean over them.
        difference = 100 * np.mean([pair[1].astype(float) - pair[0] for pair in pairs], axis=0)
        mean, half = difference.mean(), mean_half_width(difference)
        rows.append(
            [
                f"{eps:g}",
                *(f"{share:.2f}" for share in shares.mean(axis=0)),
                f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]",
                ", ".join(f"{b - a:+.2f}" for a, b in shares),
                str(len(difference)),
            ]
        )
    header = ["eps", f"{first}: robust %", f"{second}: robust %", "difference [95 % CI]", "by seed", "images"]
    return Table(header, rows)


def _outcomes(folder: Path, run: RunRecord, threat: tuple[str, float]) -> np.ndarray:
    """For each image that was attacked at a size, whether no attack broke it."""
    robust, attacked = joint_outcome(folder, run.attacks, threat)
    if not len(attacked):
        raise ValueError(f"{run.defence} was not attacked at {threat[0]} {threat[1]:g}")
    return robust[attacked]
