"""One trained model under the official AutoAttack and under each adaptive attack alone (`benchmarks/adaptive.py`)."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from art_sensreg.attacks import (
    FarStartsAttack,
    HiddenDistanceAttack,
    KitchenSinkAttack,
    OfficialAutoAttack,
    ProjectedAscent,
    ScaledLogitsAttack,
    TargetedMarginAttack,
    TransferAttack,
)
from art_sensreg.attacks.base.predictions import predicted_labels
from art_sensreg.benchmark.config.threat_models import allowed
from art_sensreg.benchmark.results.schema import (
    SECONDS,
    TEXT,
    WHOLE,
    Record,
    checked,
    list_of,
    optional,
    record,
    required,
    table_of,
)
from art_sensreg.benchmark.results.writing import plain, write_text
from art_sensreg.classifiers import SensRegClassifier
from art_sensreg.datasets import Dataset
from art_sensreg.utils.files import read_regular
from art_sensreg.utils.stats import wilson_interval
from art_sensreg.utils.tables import Table
from art_sensreg.utils.text import error_text

STANDARD = "AutoAttack standard (official)"
SINK = "kitchen sink: 1000 steps, 20 restarts, on at most 50 of the points left"


@dataclass(frozen=True, kw_only=True)
class Outcome(Record):
    """
    What an attack left at one size.

    :param robust: 0 or 1 for each image.
    :param attacked: How many images the kitchen sink worked on.
    :param stages: Seconds of each stage of AutoAttack.
    """

    robust: tuple[int, ...] = required(list_of(checked("0 or 1", lambda value: value in (0, 1))))
    seconds: float = required(SECONDS)
    attacked: int | None = optional(WHOLE)
    stages: Mapping[str, float] | None = optional(table_of(TEXT, SECONDS))

    @property
    def mask(self) -> np.ndarray:
        """Which images withstood it, `(n,)`."""
        return np.array(self.robust, dtype=bool)


Outcomes = dict[str, Outcome]


def attacks_at(
    classifier: SensRegClassifier, eps: float, surrogates: Sequence[Any], dataset: Dataset
) -> dict[str, Any]:
    """All attacks by name, in the order in which they run; 100 steps for each start of the adaptive ones."""
    common: dict[str, Any] = {"eps": eps, "max_iter": 100, "seed": 0}
    guides = dataset.x_train[:1000], dataset.y_train[:1000]
    return {
        STANDARD: OfficialAutoAttack(classifier, eps=eps),
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
        SINK: KitchenSinkAttack(classifier, eps=eps, guides=guides, seed=0),
    }


def run_attacks(
    classifier: SensRegClassifier,
    attacks: dict[str, Any],
    dataset: Dataset,
    path: Path,
    progress: Callable[[str], object],
) -> Outcomes:
    """
    Run what is not yet in the file, and store each outcome at once. AutoAttack and the adaptive attacks see every image
    that is classified correctly, the kitchen sink those that nothing else broke.

    :raises ValueError: If the file holds something else.
    """
    x, y = dataset.x_test, dataset.y_test
    found = read_outcomes(path, len(x))
    correct = predicted_labels(classifier, x) == y
    for name, attack in attacks.items():
        if name in found:
            continue
        robust, start = correct.copy(), time.perf_counter()
        if name == SINK:
            robust &= _left_by(found.values())
        attacked = np.flatnonzero(robust)
        if len(attacked):
            images = attack.generate(x[attacked], y=y[attacked])
            assert allowed(x[attacked], images, "linf", attack.eps).all()
            robust[attacked] = predicted_labels(classifier, images) == y[attacked]
        seconds = time.perf_counter() - start
        stages = {stage: round(value, 1) for stage, value in attack.seconds.items()} if name == STANDARD else None
        found[name] = Outcome(
            robust=tuple(robust.astype(int).tolist()),
            seconds=round(seconds, 1),
            attacked=int(attack.attacked.sum()) if name == SINK else None,
            stages=stages,
        )
        progress(f"eps {attack.eps:g}  {name}: {100 * robust.mean():.1f} %  {seconds:.0f} s")
        write_text(path, json.dumps(plain(found)) + "\n")
    return found


def read_outcomes(path: Path, n: int) -> Outcomes:
    """What an earlier run has stored about n images. ValueError if the file holds something else."""
    if not os.path.lexists(path):
        return {}
    try:
        found: Outcomes = table_of(TEXT, record(Outcome))(json.loads(read_regular(path, 2**27)), "")
        for outcome in found.values():
            if len(outcome.robust) != n:
                raise ValueError(f"outcomes of {len(outcome.robust)} images; expected {n}")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} holds no outcomes of this run ({error_text(error)}); remove it") from None
    return found


def adaptive_table(stored: dict[str, Outcomes]) -> Table:
    """The robust accuracy under each attack at each size; then the unions, and what the adaptive attacks gain."""
    columns = [_column(found) for found in stored.values()]
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    return Table(["attack", *(f"L-inf {eps}: robust % [95 % CI]" for eps in stored)], rows)


def _column(found: Outcomes) -> dict[str, str]:
    adaptive = [name for name in found if name not in (STANDARD, SINK)]
    before = _left_by(outcome for name, outcome in found.items() if name != SINK)
    broken = before & ~found[SINK].mask  # it saw what all others left
    union = _left_by(found[name] for name in adaptive) & ~broken
    standard = found[STANDARD].mask
    return {
        **{name: _share(found[name].mask) for name in found if name != SINK},
        f"{SINK}: images broken": f"{broken.sum()} of {found[SINK].attacked}",
        "**union of the adaptive attacks**": _share(union),
        "**union of all**": _share(union & standard),
        "**what the adaptive attacks gain over standard, points**": (
            f"{100 * (standard.mean() - (union & standard).mean()):.1f}"
        ),
    }


def _left_by(outcomes: Iterable[Outcome]) -> np.ndarray:
    left: np.ndarray = np.all([outcome.mask for outcome in outcomes], axis=0)
    return left


def _share(mask: np.ndarray) -> str:
    low, high = wilson_interval(int(mask.sum()), len(mask))
    return f"{100 * mask.mean():.1f} [{100 * low:.1f}, {100 * high:.1f}]"
