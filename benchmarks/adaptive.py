"""
Attack one trained model with the official AutoAttack and with each adaptive attack separately, and audit it.

usage: adaptive.py FOLDER DEFENCE [--surrogate FILE ...] [--eps EPS,...] [--audit-eps EPS,...] [--test-size N]

FOLDER is the output of run_art_suite.py with DEFENCE and `none` (seed 0). Writes adaptive.md there, and one
adaptive-EPS.json for each size; stored outcomes are not computed again, so that several processes can each run some
sizes first. A stage of AutoAttack sees the images left by the previous ones, an adaptive attack every image that is
classified correctly, and the long run (kitchen sink) at most 50 of the images that nothing else broke.
"""

import os
import shlex
import sys
from argparse import RawDescriptionHelpFormatter
from pathlib import Path

from art_sensreg import audit
from art_sensreg.attacks.base.predictions import predicted_labels
from art_sensreg.attacks.base.sizes import check_size
from art_sensreg.benchmark.cli.arguments import OneLineParser, sizes, whole_number
from art_sensreg.benchmark.cli.console import run_program, say
from art_sensreg.benchmark.defences import DEFENCES
from art_sensreg.benchmark.engine.audit import penalties_of
from art_sensreg.benchmark.engine.audit_run import load_target, settings_of_run
from art_sensreg.benchmark.results.store import environment, environment_line
from art_sensreg.benchmark.results.writing import write_text
from art_sensreg.benchmark.studies.adaptive import adaptive_table, attacks_at, run_attacks
from art_sensreg.utils.files import usable_folder


def main():
    parser = _parser()
    given = parser.parse_args()
    checkpoints = given.folder / "checkpoints"
    files = [checkpoints / f"{name}-seed0.safetensors" for name in (given.defence, "none")] + given.surrogate
    try:
        settings, dataset = settings_of_run(
            given.folder, given.defence, given.data_dir or os.environ.get("ART_SENSREG_DATA")
        )
        dataset = dataset.limited(test_size=given.test_size)
        classifier, *surrogates = [load_target(settings, dataset, 0, file, "none").model for file in files]
        for eps in (*given.eps, *given.audit_eps):
            check_size("--eps", eps, "linf", dataset.input_shape)
        folder, stored = usable_folder("folder", given.folder), {}
        for eps in given.eps:
            attacks = attacks_at(classifier, eps, surrogates, dataset)
            stored[f"{eps:g}"] = run_attacks(classifier, attacks, dataset, folder / f"adaptive-{eps:g}.json", say)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if given.attacks_only:
        return
    text = _tables(given.defence, settings, dataset, classifier, stored)
    for eps in given.audit_eps:
        report = audit(
            classifier,
            dataset.x_test,
            dataset.y_test,
            eps=eps,
            twin=surrogates[0],
            surrogates=surrogates[1:],
            penalties=penalties_of(settings, given.defence),
            train_data=(dataset.x_train, dataset.y_train),
            verbose=True,
        )
        text.append(f"## Audit at {eps:g}\n\n{report.as_markdown()}")
    text.append(environment_line(environment("cpu")))
    write_text(given.folder / "adaptive.md", "\n\n".join(text) + "\n")


def _parser():
    parser = OneLineParser(prog="adaptive.py", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("defence", choices=tuple(DEFENCES), metavar="defence")
    parser.add_argument("--surrogate", type=Path, action="append", default=[])
    parser.add_argument("--eps", type=sizes, default=(0.1, 0.2, 0.3))
    parser.add_argument("--audit-eps", type=sizes, default=(0.2,), help="sizes at which the model is audited")
    parser.add_argument("--test-size", type=whole_number, default=500)
    parser.add_argument("--data-dir")
    parser.add_argument("--attacks-only", action="store_true", help="store the outcomes without writing the page")
    return parser


def _tables(defence, settings, dataset, classifier, stored):
    """The parts of the page above the audits."""
    clean = (predicted_labels(classifier, dataset.x_test) == dataset.y_test).mean()
    seconds = sum(outcome.seconds for found in stored.values() for outcome in found.values())
    return [
        f"# {defence} on {dataset.name}, {settings.model}: AutoAttack, adaptive attacks, and the audit",
        f"First {len(dataset.x_test)} test images, clean accuracy {100 * clean:.1f} %, one training seed "
        f"({settings.epochs} epochs). Each adaptive attack sees every image that is classified correctly, with 100 "
        f"steps for each start; robust accuracy with Wilson's 95 % interval. The attacks took {seconds / 60:.0f} "
        "minutes.",
        f"```\n{shlex.join(['python', 'benchmarks/adaptive.py', *sys.argv[1:]])}\n```",
        adaptive_table(stored).as_markdown(),
    ]


if __name__ == "__main__":
    sys.exit(run_program(main))
