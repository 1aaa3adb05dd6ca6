"""
The effect of GradDiv on a randomised network (RSE) on scikit-learn's digits: table and command in OUT/graddiv.md.

usage: graddiv.py [--seeds N] [--epochs N] [--points N] [--bases] [--out DIR]

1. On held-out training images: several weights are tried; the smallest one is chosen that lowers the mean pairwise
   cosine of the gradients by a third at a cost of no more than one point of clean accuracy.
2. On test images, for each seed: the same network without and with GradDiv; the cosine at 32 draws, accuracy clean,
   under PGD through the expectation over draws (EOT), and under AutoAttack `rand`.

With --bases instead: RSE, Adv-BNN and PNI, with the strength of the noise and the weight searched on held-out training
images; then, on test images, what the paper claims: whether images that were attacked on few draws are classified
better by other draws. Into OUT/graddiv-bases.md, and OUT/graddiv-bases.json, from where the same command goes on.
"""

import argparse
import shlex
import sys
from pathlib import Path

import torch

from art_sensreg.benchmark.cli.arguments import OneLineParser, whole_number
from art_sensreg.benchmark.cli.console import run_program, say
from art_sensreg.benchmark.results.store import environment, environment_line
from art_sensreg.benchmark.results.writing import write_text
from art_sensreg.benchmark.studies import graddiv, graddiv_bases
from art_sensreg.datasets import Dataset, load_dataset
from art_sensreg.utils.files import usable_folder
from art_sensreg.utils.text import fenced


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = OneLineParser(prog="graddiv.py", description=__doc__, formatter_class=form, allow_abbrev=False)
    parser.add_argument("--seeds", type=whole_number, default=3)
    parser.add_argument("--epochs", type=whole_number, default=24)
    parser.add_argument("--points", type=whole_number, default=150)
    parser.add_argument("--bases", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("results/digits-graddiv"))
    given = parser.parse_args()
    try:
        usable_folder("--out", given.out)
    except OSError as error:
        parser.error(str(error))
    torch.set_num_threads(1)
    study = graddiv.GradDivStudy(seeds=given.seeds, epochs=given.epochs, points=given.points)
    dataset = load_dataset("digits")
    if given.bases:
        bases(given, dataset)
        return
    tried = graddiv.try_weights(study, dataset)
    weights = graddiv.weight_table(tried).as_markdown()
    try:
        weight = graddiv.chosen_weight(tried)
    except ValueError as error:
        sys.exit(f"{weights}\n{error}")
    found = graddiv.compare(study, dataset, weight)
    notes = (
        f"First {given.points} test images of the digits, {given.epochs} epochs, {given.seeds} training seeds (mean "
        f"and standard deviation), L-inf. GradDiv lowers the mean pairwise cosine (n = 32) by "
        f"{100 * graddiv.cosine_lowered(found):.0f} %."
    )
    command = fenced(shlex.join(["python", "benchmarks/graddiv.py", *sys.argv[1:]]))
    table = graddiv.comparison_table(found).as_markdown()
    parts = ["# GradDiv on a random self-ensemble", notes, command, table]
    parts += ["## The weight, on held-out training images", weights, f"Chosen: {weight:g}."]
    text = "\n\n".join([*parts, environment_line(environment("cpu"))])
    write_text(given.out / "graddiv.md", text + "\n")
    say(text)


def bases(given: argparse.Namespace, dataset: Dataset) -> None:
    """Search and compare all random networks, and write the page."""
    path = given.out / "graddiv-bases.json"
    tried, found = graddiv_bases.run_bases(dataset, path, given.epochs, given.seeds, given.points, say)
    words = ["python", "benchmarks/graddiv.py", *sys.argv[1:]]
    notes = (
        f"First {given.points} test images of the digits, {given.epochs} epochs, {given.seeds} training seeds (means), "
        "L-inf 0.1, 40 steps on the mean logits of 1, 2, 4 or 16 fixed draws. `own`: accuracy of these draws, "
        "`fresh`: of 16 others. The noise is in multiples of the suite's. Of each network the best setting without "
        "GradDiv and the best with it, as chosen on held-out training images."
    )
    tables = [graddiv_bases.bases_table(networks).as_markdown() for networks in (found, tried)]
    parts = ["# GradDiv on random networks", notes, fenced(shlex.join(words)), tables[0]]
    parts += ["## All settings, on held-out training images", tables[1]]
    text = "\n\n".join(parts) + "\n"
    write_text(given.out / "graddiv-bases.md", text)
    say(text)


if __name__ == "__main__":
    sys.exit(run_program(main))
