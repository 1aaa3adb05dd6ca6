"""
Attack one trained model with the official AutoAttack and with each aimed attack alone, and audit it.

usage: adaptive.py FOLDER DEFENCE [--surrogate FILE ...] [--eps EPS,...] [--audit-eps EPS,...] [--test-size N]

FOLDER is the output of run_art_suite.py with DEFENCE and `none` (seed 0). Writes adaptive.md there, and one
adaptive-EPS.json a size; what is in them already is not run again, so sizes may be run by several processes first. A
stage of AutoAttack sees what the former ones left, an aimed attack every rightly classified image, and the long run
(kitchen sink) at most 50 of the images that nothing else broke.
"""

import json
import os
import shlex
import sys
import time
from argparse import RawDescriptionHelpFormatter
from pathlib import Path

import numpy as np

from art_sensreg import audit
from art_sensreg.attacks import (
    FarStartsAttack,
    HiddenDistanceAttack,
    KitchenSinkAttack,
    ProjectedAscent,
    ScaledLogitsAttack,
    TargetedMarginAttack,
    TransferAttack,
)
from art_sensreg.attacks.autoattack.attack import OfficialAutoAttack
from art_sensreg.attacks.base.predictions import predicted_labels
from art_sensreg.attacks.base.sizes import check_size
from art_sensreg.benchmark.cli.arguments import OneLineParser, sizes, whole_number
from art_sensreg.benchmark.cli.audit import loaded_cell, settings_of_run
from art_sensreg.benchmark.cli.console import run_program, say
from art_sensreg.benchmark.defences.registry import DEFENCES
from art_sensreg.benchmark.engine.audit import penalties_of
from art_sensreg.benchmark.results.writing import write_text
from art_sensreg.utils.files import read_regular, usable_folder
from art_sensreg.utils.stats import wilson_interval
from art_sensreg.utils.tables import Table
from art_sensreg.utils.text import describe

STANDARD, SINK = (
    "AutoAttack standard (official)",
    "kitchen sink: 1000 steps, 20 restarts, on at most 50 of the points left",
)


def aimed_attacks(classifier, eps, surrogates, guides):
    """The aimed attacks by name; 100 steps each."""
    common = {"eps": eps, "max_iter": 100, "seed": 0}
    return {
        "PGD-100 on cross-entropy, 5 restarts": ProjectedAscent(classifier, nb_restarts=5, **common),
        "hidden distances, away": HiddenDistanceAttack(classifier, direction="away", nb_restarts=4, **common),
        "hidden distances, towards another class": HiddenDistanceAttack(
            classifier, direction="towards", guides=guides, nb_restarts=4, **common
        ),
        "20 far starts, 40 steps each": FarStartsAttack(classifier, nb_restarts=20, **{**common, "max_iter": 40}),
        "logits times 1, 10, 100, of unit scale, in float64": ScaledLogitsAttack(classifier, **common),
        "targeted margin, 9 targets": TargetedMarginAttack(classifier, **common),
        "transfer from the twin, an adversarially trained model, both": TransferAttack(
            classifier, surrogates=surrogates, **common
        ),
    }


def attacked(classifier, attack, x, y, rows):
    """Which of the images stay rightly classified, and the seconds that it took; only `rows` are attacked."""
    robust, start = np.ones(len(x), dtype=bool), time.perf_counter()
    if len(rows):
        images = attack.generate(x[rows], y=y[rows])
        assert np.abs(images - x[rows]).max() <= attack.eps * (1 + 1e-5) + 1e-6
        robust[rows] = predicted_labels(classifier, images) == y[rows]
    return robust, time.perf_counter() - start


def read_outcomes(path, n):
    """What an earlier run has stored: outcomes of n images by attack."""
    if not os.path.lexists(path):
        return {}
    try:
        found = json.loads(read_regular(path, 2**27))
        for entry in found.values():
            if len(entry["robust"]) != n or not set(entry["robust"]) <= {0, 1} or not entry["seconds"] >= 0:
                raise ValueError(f"outcomes of {len(entry['robust'])} images; expected {n}")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} holds no outcomes of this run ({describe(error)}); remove it") from None
    return found


def run(classifier, surrogates, dataset, sizes, folder):
    """Run what is not stored yet; outcomes by size and attack, as lists of 0 and 1 a point."""
    x, y, stored = dataset.x_test, dataset.y_test, {}
    right = predicted_labels(classifier, x) == y
    guides = dataset.x_train[:1000], dataset.y_train[:1000]
    for eps in sizes:
        path = folder / f"adaptive-{eps:g}.json"
        found = stored[f"{eps:g}"] = read_outcomes(path, len(x))
        attacks = {
            STANDARD: OfficialAutoAttack(classifier, eps=eps),
            **aimed_attacks(classifier, eps, surrogates, guides),
        }
        attacks[SINK] = KitchenSinkAttack(classifier, eps=eps, guides=guides, seed=0)
        for name, attack in attacks.items():
            if name in found:
                continue
            left = right.copy()
            if name == SINK:
                left &= np.all([np.array(entry["robust"], dtype=bool) for entry in found.values()], axis=0)
            rows = np.flatnonzero(left)
            robust, seconds = attacked(classifier, attack, x, y, rows)
            found[name] = {"robust": (left & robust).astype(int).tolist(), "seconds": round(seconds, 1)}
            if name == SINK:
                found[name]["attacked"] = int(attack.attacked.sum())
            if name == STANDARD:
                found[name]["stages"] = {stage: round(value, 1) for stage, value in attack.seconds.items()}
            say(f"eps {eps:g}  {name}: {100 * (left & robust).mean():.1f} %  {seconds:.0f} s")
            write_text(path, json.dumps(found) + "\n")
    return stored


def table_of(stored):
    """One row an attack, its robust accuracy at each size; then the unions, and what the aimed ones gain."""
    masks = {
        eps: {name: np.array(entry["robust"], dtype=bool) for name, entry in found.items()}
        for eps, found in stored.items()
    }
    names = list(next(iter(masks.values())))

    def cell(mask):
        low, high = wilson_interval(int(mask.sum()), len(mask))
        return f"{100 * mask.mean():.1f} [{100 * low:.1f}, {100 * high:.1f}]"

    rows = [[name, *(cell(found[name]) for found in masks.values())] for name in names if name != SINK]
    before = {eps: np.all([found[name] for name in names if name != SINK], axis=0) for eps, found in masks.items()}
    sink = {eps: before[eps] & ~found[SINK] for eps, found in masks.items()}  # it saw what all others left
    aimed = [name for name in names if name not in (STANDARD, SINK)]
    union = {eps: np.all([found[name] for name in aimed], axis=0) & ~sink[eps] for eps, found in masks.items()}
    both = {eps: union[eps] & found[STANDARD] for eps, found in masks.items()}
    rows.append(
        [f"{SINK}: images broken", *(f"{mask.sum()} of {stored[eps][SINK]['attacked']}" for eps, mask in sink.items())]
    )
    rows.append(["**union of the aimed attacks**", *map(cell, union.values())])
    rows.append(["**union of all**", *map(cell, both.values())])
    gains = [100 * (found[STANDARD].mean() - both[eps].mean()) for eps, found in masks.items()]
    rows.append(["**what the aimed attacks gain over standard, points**", *(f"{gain:.1f}" for gain in gains)])
    return Table(["attack", *(f"L-inf {eps}: robust % [95 % CI]" for eps in masks)], rows)


def main():
    parser = OneLineParser(prog="adaptive.py", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("defence", choices=tuple(DEFENCES), metavar="defence")
    parser.add_argument("--surrogate", type=Path, action="append", default=[])
    parser.add_argument("--eps", type=sizes, default=(0.1, 0.2, 0.3))
    parser.add_argument("--audit-eps", type=sizes, default=(0.2,), help="sizes at which the model is audited")
    parser.add_argument("--test-size", type=whole_number, default=500)
    parser.add_argument("--data-dir")
    parser.add_argument("--attacks-only", action="store_true", help="store the outcomes, and write no page")
    given = parser.parse_args()
    checkpoints = given.folder / "checkpoints"
    files = [checkpoints / f"{name}-seed0.safetensors" for name in (given.defence, "none")] + given.surrogate
    try:
        settings, dataset = settings_of_run(
            given.folder, given.defence, given.data_dir or os.environ.get("ART_SENSREG_DATA")
        )
        dataset = dataset.limited(test_size=given.test_size)
        classifier, *surrogates = [loaded_cell(settings, dataset, 0, file, "none").model for file in files]
        for eps in (*given.eps, *given.audit_eps):
            check_size("--eps", eps, "linf", dataset.input_shape)
        stored = run(classifier, surrogates, dataset, given.eps, usable_folder("folder", given.folder))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if given.attacks_only:
        return
    reports = [
        audit(
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
        for eps in given.audit_eps
    ]
    clean = (predicted_labels(classifier, dataset.x_test) == dataset.y_test).mean()
    seconds = sum(entry["seconds"] for found in stored.values() for entry in found.values())
    text = [
        f"# {given.defence} on {dataset.name}, {settings.model}: AutoAttack, attacks aimed at it, and the audit",
        f"First {len(dataset.x_test)} test images, clean accuracy {100 * clean:.1f} %, one training seed "
        f"({settings.epochs} epochs). Each aimed attack sees every rightly classified image, 100 steps a start; robust "
        f"accuracy with Wilson's 95 % interval. The attacks took {seconds / 60:.0f} minutes.",
        f"```\n{shlex.join(['python', 'benchmarks/adaptive.py', *sys.argv[1:]])}\n```",
        table_of(stored).as_markdown(),
    ]
    text += [
        f"## Audit at {eps:g}\n\n{report.as_markdown()}" for eps, report in zip(given.audit_eps, reports, strict=True)
    ]
    write_text(given.folder / "adaptive.md", "\n\n".join(text) + "\n")


if __name__ == "__main__":
    sys.exit(run_program(main))
