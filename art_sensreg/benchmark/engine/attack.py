"""One attack on images: a pure function of the target, the images and the size. Storing is not done here."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from art.utils import to_categorical

from art_sensreg.attacks.base.predictions import predicted_labels
from art_sensreg.benchmark.attacks import ATTACKS, AttackSpec, ordered
from art_sensreg.benchmark.config.settings import SuiteSettings
from art_sensreg.benchmark.config.threat_models import NOISE_DRAWS, NORMS, Threats, allowed, random_noise
from art_sensreg.benchmark.engine.runtime import quiet
from art_sensreg.benchmark.engine.target import Scores, Target
from art_sensreg.benchmark.results.entries import AttackKey, NoiseRecord
from art_sensreg.classifiers import SensRegClassifier
from art_sensreg.datasets import Dataset
from art_sensreg.utils.rng import seed_everything

# Training images that attacks may take as examples of other classes.
_GUIDES = 500


@dataclass(frozen=True, kw_only=True)
class AttackStep:
    """
    A planned attack on the target as ART attacks it by `default`, or as an `adaptive` attacker does. One run of it
    answers all its sizes, ascending: several of a minimal-norm attack, else one.
    """

    spec: AttackSpec
    view: str
    norm: str
    sizes: tuple[float, ...]

    def key(self, eps: float) -> AttackKey:
        """What the record of a size is found by."""
        return self.spec.name, self.norm, eps, self.view


@dataclass(frozen=True, kw_only=True)
class Resources:
    """
    What attacks may use beside the target: training images as examples of other classes, and other trained models, by
    the name of their defence.
    """

    budget: str
    dataset: Dataset
    surrogates: Mapping[str, SensRegClassifier]


@dataclass(frozen=True, kw_only=True)
class AttackOutcome:
    """
    The outcome of an attack on the images that it was given.

    :param within: Whether each perturbation is valid at each size, `(sizes, n)`.
    :param scores: How the perturbed images are classified.
    """

    within: np.ndarray
    scores: Scores

    def robust(self, size: int) -> np.ndarray:
        """Which images the attack did not break at a size, `(n,)`."""
        robust: np.ndarray = self.scores.correct | ~self.within[size]
        return robust


def plan_attacks(settings: SuiteSettings, views: Sequence[str]) -> tuple[AttackStep, ...]:
    """All attacks on a target, in the order in which they run."""
    several = len(views) > 1
    return tuple(
        AttackStep(spec=ATTACKS[name], view=view, norm=threat.norm, sizes=sizes)
        for name in ordered(settings.attacks, both_views=several)
        for view in views
        # Others than ART's see through preprocessing by themselves: there is no default to show.
        if view == "adaptive" or ATTACKS[name].art or not several
        for threat in settings.threats
        if threat.norm in ATTACKS[name].norms
        for sizes in ([threat.eps] if ATTACKS[name].minimal_norm else [(eps,) for eps in threat.eps])
    )


def attack(
    target: Target, x: np.ndarray, y: np.ndarray, step: AttackStep, resources: Resources, draw: tuple[Any, ...]
) -> AttackOutcome:
    """
    Attack images, at least one: a function of what is given alone, since all random numbers are drawn for `draw`.

    An image counts as broken at a size only where the perturbation keeps within it and within the range of images.
    """
    seed = zlib.crc32(repr(draw).encode()) & 0x7FFFFFFF
    dataset = resources.dataset
    settings = {
        **step.spec.settings[resources.budget],
        "seed": seed,
        "guides": (dataset.x_train[:_GUIDES], dataset.y_train[:_GUIDES]),
        "surrogates": list(resources.surrogates.values()),
    }
    seed_everything(*draw)
    with quiet():
        generator = step.spec.build(target.classifier(step.view), NORMS[step.norm], max(step.sizes), settings)
        x_adv = generator.generate(x, y=to_categorical(y, dataset.nb_classes))
    x_adv = np.asarray(x_adv, dtype=np.float32)
    within = np.stack([allowed(x, x_adv, step.norm, eps) for eps in step.sizes])
    # What is not finite is in no range; a preprocessor might crash on it.
    return AttackOutcome(within=within, scores=target.score(np.clip(np.nan_to_num(x_adv), 0.0, 1.0), y, seed))


def joined(outcomes: Sequence[AttackOutcome], target: Target, step: AttackStep) -> AttackOutcome:
    """The outcome on several parts of the images, in order, as one; there may be none."""
    repeats = None if target.random is None else np.zeros((target.repeats, 0), dtype=bool)
    none = Scores(np.zeros(0, dtype=bool), repeats, repeats)
    parts = [AttackOutcome(within=np.zeros((len(step.sizes), 0), dtype=bool), scores=none), *outcomes]

    def along(name: str) -> np.ndarray | None:
        arrays = [getattr(part.scores, name) for part in parts]
        return None if arrays[0] is None else np.concatenate(arrays, axis=-1)

    scores = Scores(np.concatenate([part.scores.correct for part in parts]), along("single"), along("mean"))
    return AttackOutcome(within=np.concatenate([part.within for part in parts], axis=1), scores=scores)


def noise_accuracy(
    target: Target, x: np.ndarray, y: np.ndarray, threats: Threats, seed: int
) -> tuple[NoiseRecord, ...]:
    """The accuracy under random noise of each size, averaged over ten draws."""
    records = []
    for norm, eps in ((threat.norm, eps) for threat in threats for eps in threat.eps):
        seed_everything("random noise", seed, norm, eps)
        hits = [predicted_labels(target.default, random_noise(x, norm, eps, draw)) == y for draw in range(NOISE_DRAWS)]
        records.append(NoiseRecord(norm=norm, eps=eps, accuracy=float(np.mean(hits)), n=len(x)))
    return tuple(records)
