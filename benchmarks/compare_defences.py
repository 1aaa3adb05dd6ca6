"""
Compare two defences of one run of the suite image by image: `compare_defences.py RUN FIRST SECOND`.

The same attacks on the same images with the same training seeds: the difference is taken for each image, so that the
interval is that of the difference and not of two separate shares.
"""

import sys
from pathlib import Path

import numpy as np

from art_sensreg.benchmark.cli.arguments import OneLineParser
from art_sensreg.benchmark.cli.console import run_program, say
from art_sensreg.benchmark.results.masks import joint_outcome
from art_sensreg.benchmark.results.reading import read_results
from art_sensreg.benchmark.results.records import RunRecord
from art_sensreg.benchmark.results.writing import write_text
from art_sensreg.utils.checks import did_you_mean
from art_sensreg.utils.files import usable_folder
from art_sensreg.utils.stats import mean_half_width
from art_sensreg.utils.tables import Table
from art_sensreg.utils.text import escape_markdown, fenced


def outcomes(out: Path, run: RunRecord, size: tuple[str, float]) -> np.ndarray:
    """For each image that was attacked at a size, whether no attack broke it."""
    robust, attacked = joint_outcome(out, run.attacks, size)
    if not len(attacked):
        raise ValueError(f"{run.defence} was not attacked at {size[0]} {size[1]:g}")
    return robust[attacked]


def main() -> int:
    parser = OneLineParser(prog="compare_defences.py", description=__doc__)
    parser.add_argument("run", type=Path, help="output folder of benchmarks/run_art_suite.py")
    parser.add_argument("first")
    parser.add_argument("second")
    given = parser.parse_args()
    if not (given.run / "results.json").is_file():
        parser.error(f"`run`: {given.run} holds no `results.json` of a run of the suite")
    try:
        results = read_results(given.run / "results.json")
        usable_folder("run", given.run)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    runs, threat = results.runs, results.config.threats[0]
    by_name = {name: {run.seed: run for run in runs if run.defence == name} for name in (given.first, given.second)}
    seeds = sorted(set(by_name[given.first]) & set(by_name[given.second]))
    if not seeds:
        names = {run.defence for run in runs}
        unknown = [name for name in by_name if name not in names]
        hint = did_you_mean(unknown[0], names) if unknown else ""
        parser.error(f"no seed has both {given.first} and {given.second} in {given.run}{hint}")
    rows = []
    for eps in threat.eps:
        pairs = [[outcomes(given.run, by_name[name][seed], (threat.norm, eps)) for name in by_name] for seed in seeds]
        shares = 100 * np.array([[mask.mean() for mask in pair] for pair in pairs])
        # The images are drawn, the seeds are these: each image counts with its mean over them.
        difference = 100 * np.mean([pair[1].astype(float) - pair[0] for pair in pairs], axis=0)
        half = mean_half_width(difference)
        rows.append(
            [
                f"{eps:g}",
                f"{shares[:, 0].mean():.2f}",
                f"{shares[:, 1].mean():.2f}",
                f"{difference.mean():+.2f} [{difference.mean() - half:+.2f}, {difference.mean() + half:+.2f}]",
                ", ".join(f"{b - a:+.2f}" for a, b in shares),
                str(len(difference)),
            ]
        )
    head = ["eps", f"{given.first}: robust %", f"{given.second}: robust %", "difference [95 % CI]", "by seed", "images"]
    table = Table(head, rows)
    command = " ".join(["python benchmarks/compare_defences.py", *sys.argv[1:]])
    page = given.run / "comparison.md"
    title = escape_markdown(f"{given.second} against {given.first}")
    write_text(page, f"# {title}\n\n{fenced(command)}\n\n{table.as_markdown()}\n")
    say(table.as_text(), f"\nWrote {page}")
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
