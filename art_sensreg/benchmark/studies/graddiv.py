"""What GradDiv does to a random self-ensemble (RSE) on the digits (`benchmarks/graddiv.py`)."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
import torch
from art.utils import to_categorical

from art_sensreg.attacks import OfficialAutoAttack
from art_sensreg.benchmark.attacks.builders import pgd
from art_sensreg.benchmark.config.settings import RECIPES
from art_sensreg.benchmark.config.threat_models import allowed
from art_sensreg.benchmark.defences import DEFENCES, TrainingSpec
from art_sensreg.benchmark.engine.runtime import quiet
from art_sensreg.datasets import Dataset
from art_sensreg.penalties.gradient_diversity import gradient_cosine
from art_sensreg.randomized import RandomizedClassifier
from art_sensreg.utils.rng import seed_everything
from art_sensreg.utils.tables import Table

WEIGHTS = (0.02, 0.05, 0.07, 0.1)
_DRAWS = (1, 16)
_SCORED = 16
Figures = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class GradDivStudy:
    """
    The settings of the study.

    :param seeds: Number of training seeds of the comparison.
    :param epochs: Passes over the training data.
    :param points: Images that are attacked: the first ones.
    """

    seeds: int = 3
    epochs: int = 24
    points: int = 150


def _specification(dataset: Dataset, seed: int, epochs: int) -> TrainingSpec:
    recipe = RECIPES["digits"]
    return TrainingSpec(
        dataset=dataset,
        model=recipe.model,
        seed=seed,
        epochs=epochs,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        eps=0.2,
    )


def try_weights(study: GradDivStudy, dataset: Dataset) -> dict[float, Figures]:
    """Measure each weight, 0 (without GradDiv) first, on held-out training images."""
    held_out = dataset.with_validation_as_test()
    return {weight: measure(study, held_out, 0, weight, full=False) for weight in (0.0, *WEIGHTS)}


def compare(study: GradDivStudy, dataset: Dataset, weight: float) -> dict[str, list[Figures]]:
    """Measure the same network without and with GradDiv on test images, for each seed."""
    return {
        name: [measure(study, dataset, seed, value, full=True) for seed in range(study.seeds)]
        for name, value in (("rse", 0.0), ("rse + GradDiv", weight))
    }


def measure(study: GradDivStudy, dataset: Dataset, seed: int, weight: float, full: bool) -> Figures:
    """
    Train with a weight (0: without GradDiv): the cosine at 32 draws, and accuracy clean and under PGD through EOT; in
    full at two sizes, and under AutoAttack `rand`.
    """
    defence = DEFENCES["graddiv" if weight else "rse"]
    options = {**defence.options, **({"weight": weight} if weight else {})}
    spec = _specification(dataset, seed, study.epochs)
    seed_everything("graddiv", seed)
    model = defence.train(spec, options).model
    classifier = spec.classifier(model, kind=RandomizedClassifier, samples=_SCORED)
    assert isinstance(classifier, RandomizedClassifier)
    x, y = dataset.x_test[: study.points], dataset.y_test[: study.points]
    labels = to_categorical(y, dataset.nb_classes)
    torch.manual_seed(0)
    cosine = gradient_cosine(model.eval(), torch.from_numpy(x), torch.from_numpy(y).long(), samples=32)
    clean = classifier.score(x, y, repeats=5, seed=0).correct.mean(0) > 0.5
    figures = {"cosine": cosine, "clean": float(clean.mean())}
    for eps in (0.1, 0.2) if full else (0.1,):
        for draws in _DRAWS if full else _DRAWS[-1:]:
            classifier.samples = draws
            seed_everything("pgd", seed, eps, draws)
            x_adv = pgd(classifier, np.inf, eps, {"max_iter": 40, "restarts": 1}).generate(x, y=labels)
            classifier.samples = _SCORED
            figures[f"EOT-PGD {eps:g}, {draws} draws"] = _robust(classifier, x, x_adv, y, clean, eps)
        if full:
            classifier.samples = 1  # AutoAttack averages draws itself
            with quiet():
                attack = OfficialAutoAttack(classifier, eps=eps, version="rand", nb_iter=50, eot_iter=20, seed=seed)
                x_adv = attack.generate(x, y=labels)
            classifier.samples = _SCORED
            figures[f"AutoAttack rand {eps:g}"] = _robust(classifier, x, x_adv, y, clean, eps)
    return figures


def _robust(
    classifier: RandomizedClassifier, x: np.ndarray, x_adv: np.ndarray, y: np.ndarray, clean: np.ndarray, eps: float
) -> float:
    """Share classified correctly before and after, by most of five scorings with fresh draws."""
    after = classifier.score(x_adv, y, repeats=5, seed=1).correct.mean(0) > 0.5
    return float((clean & (after | ~allowed(x, x_adv, "linf", eps))).mean())


def chosen_weight(tried: dict[float, Figures]) -> float:
    """
    The smallest weight that lowers the cosine by a third at no more than one point of clean accuracy.

    :raises ValueError: If there is none.
    """
    plain = tried[0.0]
    fit = [
        weight
        for weight, figures in tried.items()
        if weight and figures["cosine"] <= plain["cosine"] * 2 / 3 and figures["clean"] >= plain["clean"] - 0.0101
    ]
    if not fit:
        raise ValueError("no weight lowers the cosine by a third at one point of clean accuracy: see the table")
    return min(fit)


def weight_table(tried: dict[float, Figures]) -> Table:
    """The figures of each weight."""
    names = list(tried[0.0])
    rows = [[f"{weight:g}", *(_entry(name, [figures[name]]) for name in names)] for weight, figures in tried.items()]
    return Table(["weight", *(name if name == "cosine" else f"{name} %" for name in names)], rows)


def comparison_table(found: dict[str, list[Figures]]) -> Table:
    """Mean and standard deviation over the seeds, of each network."""
    names = list(found["rse"][0])
    rows = [
        [network, *(_entry(name, [run[name] for run in runs]) for name in names)] for network, runs in found.items()
    ]
    return Table(["network", *(name if name == "cosine" else f"{name}: %" for name in names)], rows)


def cosine_lowered(found: dict[str, list[Figures]]) -> float:
    """By what share GradDiv lowers the mean cosine."""
    without, with_it = (fmean(run["cosine"] for run in runs) for runs in found.values())
    return 1 - with_it / without


def _entry(name: str, values: list[float]) -> str:
    scale = 1.0 if name == "cosine" else 100.0
    spread = f" ± {scale * stdev(values):.2g}" if len(values) > 1 else ""
    return f"{scale * fmean(values):.3g}{spread}"
