"""
Choose the settings of our defences on held-out training images, never on test points.

usage: choose_settings.py --dataset NAME [--of NAME,NAME...] [--data-dir DIR] [--out DIR] [suite options ...]

Runs the suite with --validation once for each candidate below, and writes one table of all to OUT/validation.md, with
the candidate that the rule chooses. The values in `art_sensreg/benchmark/config/settings.py` are those.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from art_sensreg.benchmark import run_suite
from art_sensreg.benchmark.cli.arguments import OneLineParser, make_parser, request_of
from art_sensreg.benchmark.cli.console import run_program, say
from art_sensreg.benchmark.results.records import RunRecord, WorstCase
from art_sensreg.benchmark.results.tables import summary_table
from art_sensreg.benchmark.results.writing import write_text
from art_sensreg.utils.checks import did_you_mean
from art_sensreg.utils.files import usable_folder
from art_sensreg.utils.tables import Table
from art_sensreg.utils.text import fenced

SR_JR_GRID = [
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
JR_GRID = [{"jr_weight": weight} for weight in (0.01, 0.1, 0.3)]
# Between clean and adversarial images: they share an image's whole budget, so smaller weights do.
HYBRID_GRID = [
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
GRIDS: dict[str, list[dict[str, float]]] = {
    "sr+jr": SR_JR_GRID,
    "jr": JR_GRID,
    "fire": [{"weight": weight} for weight in (1.0, 2.0, 5.0, 10.0)],
    "adv-bnn": [{"kl_weight": weight} for weight in (0.001, 0.004, 0.02, 0.1)],
    "at+sr+jr": HYBRID_GRID,
    "n-fgsm+sr+jr": HYBRID_GRID,
}


RULE = """Rule: candidates whose clean accuracy is more than one point below the highest are out. Of the others, the
best one has the highest worst case, mean over eps. Of those whose intervals overlap with the best one's at every eps,
the one with the smallest sum of weights is chosen (the larger mean decides a tie)."""
Candidate = tuple[dict[str, float], RunRecord]


def chosen(candidates: list[Candidate]) -> dict[str, float]:
    """Apply the rule to pairs of options and runs."""
    highest = max(run.clean_accuracy for _, run in candidates)
    accurate = [(options, run.worst_case) for options, run in candidates if run.clean_accuracy > highest - 0.0101]

    def mean(cases: Sequence[WorstCase]) -> float:
        return fmean(case.robust_accuracy for case in cases)

    def overlaps(cases: Sequence[WorstCase]) -> bool:
        return all(a.ci_low <= b.ci_high and b.ci_low <= a.ci_high for a, b in zip(cases, best, strict=True))

    def weight(options: dict[str, float]) -> float:
        return sum(value for name, value in options.items() if name.endswith("weight"))

    best = max((cases for _, cases in accurate), key=mean)
    near = [pair for pair in accurate if overlaps(pair[1])]
    return min(near, key=lambda pair: (weight(pair[0]), -mean(pair[1])))[0]


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = OneLineParser(prog="choose_settings.py", description=__doc__, formatter_class=form, allow_abbrev=False)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--of", default="sr+jr,jr")
    given, rest = parser.parse_known_args()
    unknown = [name for name in given.of.split(",") if name not in GRIDS]
    if unknown:
        parser.error(
            f"`--of` names {', '.join(unknown)}; expected some of {', '.join(GRIDS)}{did_you_mean(unknown[0], GRIDS)}"
        )
    try:
        asked = request_of(make_parser().parse_args(["--dataset", given.dataset, "--quiet", *rest]))
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))
    out = given.out or Path("results") / f"{Path(given.dataset).stem}-validation"
    try:
        usable_folder("--out", out)
    except OSError as error:
        parser.error(str(error))
    sections = []
    for defence in given.of.split(","):
        grid = GRIDS[defence]
        rows, candidates = [], []
        for number, options in enumerate(grid):
            folder = out / f"{defence}-{number}"
            request = replace(
                asked, validation=True, defences=(defence,), options={defence: options}, out=folder, resume=True
            )
            results = run_suite(request)
            if results.runs[0].status == "error":
                sys.exit(f"candidate {options} failed: see {folder}")
            table = summary_table(results)
            sizes = sum("worst case" in column or column == "clean %" for column in table.header)
            rows.append([*(f"{value}" for value in options.values()), *table.rows[0][1 : 1 + sizes]])
            candidates.append((options, results.runs[0]))
        words = ", ".join(f"`{name}` {value}" for name, value in chosen(candidates).items())
        header = [*grid[0], *table.header[1 : 1 + sizes]]
        sections.append(f"## {defence}\n\n{Table(header, rows).as_markdown()}\n\nChosen: {words}.")
    command = shlex.join(["python", "benchmarks/choose_settings.py", *sys.argv[1:]])
    text = "\n\n".join(["# Candidates on held-out training images", fenced(command), RULE, *sections]) + "\n"
    write_text(out / "validation.md", text)
    say(text)


if __name__ == "__main__":
    sys.exit(run_program(main))
