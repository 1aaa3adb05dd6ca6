"""What `art-sensreg step-cost` times, one entry each, and the target of each."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from art.estimators.classification import PyTorchClassifier

from art_sensreg.adversaries import PGD, Adversary, CarriedAdversary
from art_sensreg.benchmark.defences.registry import DEFENCES
from art_sensreg.benchmark.step_cost.loops import (
    CLASSES,
    EPS,
    GRADIENT_IMAGES,
    MODELS,
    PREDICT_BATCH,
    PREDICT_IMAGES,
    Bench,
    Run,
    SetUp,
    epoch_loop,
    fgsm_step,
    gradient_loop,
    hoffman_step,
    predict_loop,
)
from art_sensreg.penalties import JacobianPenalty, SensitivityPenalty
from art_sensreg.penalty_lists import Penalty
from art_sensreg.presets import PRESETS
from art_sensreg.trainers import SensRegTrainer
from art_sensreg.training.callbacks import TrainingState
from art_sensreg.training.config import CHEAP_FRACTION


@dataclass(frozen=True)
class Variant:
    """
    Something to time.

    :param name: Name on the command line.
    :param summary: One line.
    :param prepare: Function of a bench that returns what is timed; raises `NotApplicable` where there is no such thing.
    :param unit: Name in `UNITS` of what its time is divided by.
    :param slow: Whether an epoch takes so long that a few repeats must suffice.
    :param ours: Whether it is this package's.
    :param memory: Whether its memory is measured on the CPU, in a separate process.
    """

    name: str
    summary: str
    prepare: Callable[[Bench], Run]
    unit: str = "epoch"
    slow: bool = False
    ours: bool = True
    memory: bool = False


UNITS: dict[str, Callable[[Bench], Run]] = {
    "epoch": epoch_loop,
    "predict": predict_loop,
    "gradient": gradient_loop,
}


# Larger weights make a constant network.
_PRESET = PRESETS["mnist"]
_CARRIED = SensitivityPenalty(weight=_PRESET.carried_sr), JacobianPenalty(weight=_PRESET.carried_jr)


class _Start:
    """A callback that notes when the first step begins."""

    def __init__(self) -> None:
        self.time = 0.0

    def on_start(self, state: TrainingState) -> None:
        self.time = time.perf_counter()


def _trainer(*penalties: Penalty, adversary: Adversary | None = None, **settings: Any) -> Callable[[Bench], Run]:
    """`SensRegTrainer.fit` with penalties and an adversary, and settings of its configuration."""

    def prepare(bench: Bench) -> Run:
        start = _Start()
        # What the guard measures once an epoch would count much in epochs as short as these.
        config = bench.spec.config(
            precision=bench.precision, on_catastrophic_overfitting="ignore", callbacks=(start,), **settings
        )
        trainer = SensRegTrainer(bench.spec.classifier(), penalties, config, adversary)

        def run() -> SetUp:
            called = time.perf_counter()
            trainer.fit(bench.x, bench.y, batch_size=bench.spec.batch_size, nb_epochs=1, verbose=False)
            return SetUp(start.time - called)

        return run

    return prepare


def _classifier_fit(bench: Bench) -> Run:
    bench.require_float32()
    classifier = bench.spec.classifier()
    return lambda: classifier.fit(bench.x, bench.y, batch_size=bench.spec.batch_size, nb_epochs=1, verbose=False)


def _art_fit(bench: Bench) -> Run:
    bench.require_float32()
    classifier, labels = bench.spec.art_classifier(), bench.spec.one_hot
    return lambda: classifier.fit(bench.x, labels, batch_size=bench.spec.batch_size, nb_epochs=1)


def _defence(name: str, defence: str, summary: str) -> Variant:
    """One of ART's trainers as the suite runs it, with the making of its model, which takes little beside an epoch."""
    chosen = DEFENCES[defence]

    def prepare(bench: Bench) -> Run:
        bench.require_float32()

        def run() -> None:
            with contextlib.redirect_stderr(io.StringIO()):  # its progress bars cannot all be switched off
                chosen.train(bench.spec, chosen.options)

        return run

    return Variant(name, summary, prepare, slow=True, ours=False)


def _ours(bench: Bench) -> PyTorchClassifier:
    return bench.spec.classifier()


def _arts(bench: Bench) -> PyTorchClassifier:
    return bench.spec.art_classifier()


def _predict(name: str, summary: str, make: Callable[[Bench], PyTorchClassifier], ours: bool) -> Variant:
    def prepare(bench: Bench) -> Run:
        classifier = make(bench)
        return lambda: classifier.predict(bench.spec.dataset.x_test, batch_size=PREDICT_BATCH)

    return Variant(name, f"{summary}, {PREDICT_IMAGES} images", prepare, "predict", ours=ours)


def _gradient(name: str, summary: str, make: Callable[[Bench], PyTorchClassifier], ours: bool) -> Variant:
    def prepare(bench: Bench) -> Run:
        classifier, dataset = make(bench), bench.spec.dataset
        x, y = dataset.x_test[:GRADIENT_IMAGES], np.eye(CLASSES, dtype=np.float32)[dataset.y_test[:GRADIENT_IMAGES]]
        return lambda: classifier.loss_gradient(x, y)

    return Variant(name, f"{summary}, {GRADIENT_IMAGES} images", prepare, "gradient", ours=ours)


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("plain", "SensRegTrainer.fit without penalties", _trainer(), memory=True),
        Variant("classifier-fit", "SensRegClassifier.fit without penalties", _classifier_fit),
        Variant("art-fit", "ART's PyTorchClassifier.fit, as shipped", _art_fit, ours=False),
        Variant(
            "sr+jr",
            "SensRegTrainer.fit with SR and JR, which share one noisy pass",
            _trainer(SensitivityPenalty(), JacobianPenalty()),
            memory=True,
        ),
        Variant(
            "sr+jr-cheap",
            "the same, measured on a part of each batch (TrainingConfig.penalty_fraction)",
            _trainer(SensitivityPenalty(), JacobianPenalty(), penalty_fraction=CHEAP_FRACTION),
            memory=True,
        ),
        Variant(
            "carried",
            "SensRegTrainer.fit with the carried adversary",
            _trainer(adversary=CarriedAdversary(eps=0.3)),
        ),
        Variant(
            "carried+sr+jr",
            "the same, with SR and JR over its step on half of each batch, as in the suite",
            _trainer(*_CARRIED, adversary=CarriedAdversary(eps=0.3), penalty_fraction=0.5),
            memory=True,
        ),
        Variant(
            "carried+sr+jr-whole",
            "the same, on the whole of each batch",
            _trainer(*_CARRIED, adversary=CarriedAdversary(eps=0.3)),
        ),
        Variant(
            "free+sr+jr",
            "perturbations moved by the training step's own gradient, SR and JR between clean and perturbed images of "
            "half of each batch, as in the suite",
            _trainer(
                SensitivityPenalty(weight=_PRESET.free_sr),
                JacobianPenalty(weight=_PRESET.free_jr),
                adversary=CarriedAdversary(eps=0.3, free=True, pair="adversarial"),
                penalty_fraction=_PRESET.free_fraction,
            ),
        ),
        Variant(
            "jr-projection",
            "SensRegTrainer.fit with JR by random projection",
            _trainer(JacobianPenalty(estimator="projection")),
            memory=True,
        ),
        Variant(
            "hoffman-plain",
            "JR by random projection, written in the plain loop (arXiv 1908.02729, algorithm 1)",
            lambda bench: epoch_loop(bench, hoffman_step),
            ours=False,
        ),
        Variant(
            "sr+hoffman",
            "SensRegTrainer.fit with SR, and JR by random projection",
            _trainer(SensitivityPenalty(), JacobianPenalty(estimator="projection")),
            slow=True,
        ),
        Variant(
            "fgsm",
            "FGSM adversarial training from a random start, in the plain loop (arXiv 2001.03994)",
            lambda bench: epoch_loop(bench, fgsm_step),
            ours=False,
        ),
        _defence("art-madry-7", "art-madry", "ART's AdversarialTrainerMadryPGD, 7 iterations, as shipped"),
        _defence("art-trades-7", "art-trades", "ART's AdversarialTrainerTRADES with PGD of 7 iterations, as shipped"),
        _defence("art-fbf", "art-fbf", "ART's AdversarialTrainerFBF, as shipped"),
        _predict("predict", "SensRegClassifier.predict", _ours, ours=True),
        _predict("art-predict", "ART's PyTorchClassifier.predict", _arts, ours=False),
        _gradient("loss-gradient", "SensRegClassifier.loss_gradient", _ours, ours=True),
        _gradient("art-loss-gradient", "ART's PyTorchClassifier.loss_gradient", _arts, ours=False),
    )
}

GPU_VARIANTS = (
    *(VARIANTS[name] for name in ("plain", "sr+jr", "sr+jr-cheap", "carried", "carried+sr+jr", "fgsm")),
    Variant("pgd-10", "PGD adversarial training with 10 steps", _trainer(adversary=PGD(eps=EPS, max_iter=10))),
)
"""What is timed on a GPU: what trains with PGD is what the others are to be cheaper than."""

CONVOLUTIONAL = tuple(name for name in MODELS if name != "mlp")

# What the ratios should be at most. A name stands for the ratio of that variant in the same run; a missing model has no
# target.
TARGETS: dict[str, dict[str, float | str]] = {
    "plain": dict.fromkeys(MODELS, 1.05),
    "sr+jr": {**dict.fromkeys(CONVOLUTIONAL, 2.3), "mlp": 2.6},
    "sr+jr-cheap": dict.fromkeys(CONVOLUTIONAL, 1.5),
    "carried+sr+jr": dict.fromkeys(CONVOLUTIONAL, 2.6),
    "free+sr+jr": dict.fromkeys(CONVOLUTIONAL, 2.4),
    "jr-projection": dict.fromkeys(MODELS, "hoffman-plain"),
    "predict": dict.fromkeys(MODELS, 1.15),
    "loss-gradient": dict.fromkeys(MODELS, 1.15),
}
