"""A trained defence as it is attacked and scored: as ART attacks it by default, and with BPDA and EOT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from art_sensreg.attacks import BPDA
from art_sensreg.attacks.wrappers.eot import EOT
from art_sensreg.benchmark.defences.from_art.postprocessing import postprocessed_classifier
from art_sensreg.benchmark.defences.spec import Defence, Options, Preprocessing, Randomness
from art_sensreg.benchmark.defences.train_spec import TrainingSpec
from art_sensreg.classifiers import SensRegClassifier
from art_sensreg.outputs import predicted_classes
from art_sensreg.randomized import RandomizedClassifier

# Times that a random model is scored with fresh draws, by budget.
REPEATS = {"smoke": 3, "quick": 5, "full": 10}
# Images on which the clean accuracy of a slow preprocessor is measured at most.
_CLEAN_POINTS = 200


@dataclass(frozen=True)
class Scores:
    """
    Which images are classified correctly.

    :param correct: Whether each image is, `(n,)`; of a random model: in most of the repeats, by its mean prediction.
    :param single: Of a random model: by one draw, for each repeat, `(repeats, n)`.
    :param mean: Of a random model: by its mean prediction, for each repeat, `(repeats, n)`.
    """

    correct: np.ndarray
    single: np.ndarray | None = None
    mean: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Target:
    """
    A trained defence.

    :param model: The trained model without anything around it: its weights are the checkpoint.
    :param default: The defence as ART builds it and attacks by default.
    :param adaptive: The defence as an attacker who knows it attacks it: with BPDA and EOT, or underneath its
        postprocessing; None: the same.
    :param random: The model whose draws are scored, if it is random.
    :param points: Most images that are attacked, or None.
    :param repeats: Times that a random model is scored.
    :param answers: Answers whose mean is scored, of a model whose scores are random.
    """

    model: SensRegClassifier
    default: SensRegClassifier
    adaptive: SensRegClassifier | None = None
    random: Any = None
    points: int | None = None
    repeats: int = 1
    answers: int = 1

    @property
    def views(self) -> tuple[str, ...]:
        """How it is attacked: `default`, and `adaptive` if that is another way."""
        return ("default",) if self.adaptive is None else ("default", "adaptive")

    @property
    def with_gradients(self) -> SensRegClassifier:
        """The classifier whose gradients can be used."""
        return self.default if self.adaptive is None else self.adaptive

    def classifier(self, view: str) -> SensRegClassifier:
        """What attacks are given in a view."""
        return self.default if view == "default" else self.with_gradients

    def attackable(self, n: int) -> int:
        """How many of `n` test images are attacked: the first so many."""
        return n if self.points is None else min(n, self.points)

    def scored(self, n: int) -> int:
        """How many of `n` test images the clean accuracy is measured on: the first so many."""
        return n if self.points is None else min(n, max(self.points, _CLEAN_POINTS))

    def score(self, x: np.ndarray, y: np.ndarray, seed: int) -> Scores:
        """Which images are classified correctly; `seed` is that of a random model's draws."""
        if self.random is None:
            # One answer each time would count its own noise as an attack's success, once for every attack.
            answers = [self.default.predict(x) for _ in range(self.answers)]
            return Scores(predicted_classes(np.mean(answers, axis=0), self.default) == y)
        found = self.random.score(x, y, repeats=self.repeats, seed=seed)
        mean = np.asarray(found.correct, dtype=bool).reshape(-1, len(x))
        single = np.asarray(found.single_correct, dtype=bool).reshape(-1, len(x))
        return Scores(mean.mean(axis=0) > 0.5, single, mean)


def make_target(
    spec: TrainingSpec, model: SensRegClassifier, defence: Defence, options: Options, budget: str = "smoke"
) -> Target:
    """Make what is attacked of a trained model. NotApplicable if the preprocessing cannot run here."""
    if defence.random is not None:
        return _random_target(spec, model, defence.random, options, budget)
    if defence.preprocessing is not None:
        return _preprocessed_target(spec, model, defence.preprocessing, options, budget)
    if defence.postprocessing is not None:
        default = postprocessed_classifier(spec, model.model, defence.postprocessing.make(options))
        return Target(model=model, default=default, adaptive=model, answers=defence.postprocessing.answers)
    return Target(model=model, default=model)


def _random_target(
    spec: TrainingSpec, model: SensRegClassifier, random: Randomness, options: Options, budget: str
) -> Target:
    """A model that is random at prediction: there is one way to attack it, by expectation over its draws."""
    module = model.model if random.module is None else random.module(model.model, options)
    samples = random.samples[budget]
    return Target(
        model=model,
        default=spec.classifier(EOT(module, samples=samples)),
        random=spec.classifier(module, kind=RandomizedClassifier, samples=samples),
        points=random.points[budget],
        repeats=REPEATS[budget],
    )


def _preprocessed_target(
    spec: TrainingSpec, model: SensRegClassifier, before: Preprocessing, options: Options, budget: str
) -> Target:
    default = spec.classifier(model.model, preprocessing_defences=[before.make(spec, options)])
    surrogate = None if before.surrogate is None else before.surrogate(options)
    module: Any = BPDA(model.model, before.make(spec, options), surrogate=surrogate)
    points = None if before.points is None else before.points[budget]
    if before.samples is None:
        return Target(model=model, default=default, adaptive=spec.classifier(module), points=points)
    samples = before.samples[budget]
    return Target(
        model=model,
        default=default,
        adaptive=spec.classifier(EOT(module, samples=samples)),
        random=spec.classifier(module, kind=RandomizedClassifier, samples=samples),
        points=points,
        repeats=REPEATS[budget],
    )
