"""The classifiers of a cell: as ART attacks it by default, and with BPDA and EOT; and how outcomes are scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from art_sensreg.attacks import BPDA
from art_sensreg.attacks.wrappers.eot import EOT
from art_sensreg.benchmark.defences.from_art.postprocessing import postprocessed_classifier
from art_sensreg.benchmark.defences.spec import Defence, Preprocessing, Randomness
from art_sensreg.benchmark.defences.train_spec import TrainingSpec
from art_sensreg.classifiers import SensRegClassifier
from art_sensreg.outputs import predicted_classes
from art_sensreg.randomized import RandomizedClassifier

# Times that a random model is scored with fresh draws, by budget.
REPEATS = {"smoke": 3, "quick": 5, "full": 10}
# Images on which the clean accuracy of a slow preprocessor is measured at most.
_CLEAN_POINTS = 200


@dataclass(frozen=True)
class Judgement:
    """
    Which images are rightly classified.

    :param correct: Whether each image is, `(n,)`; of a random model: in most of the repeats, by its mean prediction.
    :param single: Of a random model: by one draw, for each repeat, `(repeats, n)`.
    :param mean: Of a random model: by its mean prediction, for each repeat, `(repeats, n)`.
    """

    correct: np.ndarray
    single: np.ndarray | None = None
    mean: np.ndarray | None = None


@dataclass(frozen=True)
class View:
    """
    One way to attack a model.

    :param name: `default`, or `adaptive` for BPDA and EOT.
    :param classifier: What attacks are given.
    """

    name: str
    classifier: SensRegClassifier


@dataclass(frozen=True)
class Cell:
    """
    A trained defence as it is attacked and scored.

    :param model: The trained model without any preprocessing: its weights are the checkpoint.
    :param views: One view, or `default` and `adaptive`.
    :param random: The model whose draws are scored, if it is random.
    :param points: Most images that are attacked, or None.
    :param repeats: Times that a random model is scored.
    :param answers: Answers whose mean is scored, of a model that is asked for scores which are random.
    """

    model: SensRegClassifier
    views: tuple[View, ...]
    random: Any = None
    points: int | None = None
    repeats: int = 1
    answers: int = 1

    @property
    def default(self) -> SensRegClassifier:
        """The defence as ART builds it, with its preprocessing."""
        return self.views[0].classifier

    @property
    def adaptive(self) -> SensRegClassifier:
        """The defence whose gradients can be used: with BPDA and EOT where it needs them, else the same."""
        return self.views[-1].classifier

    def attackable(self, n: int) -> int:
        """
        How many of the test images are attacked at most.

        :param n: Their number.
        :return: The first so many.
        """
        return n if self.points is None else min(n, self.points)

    def scored(self, n: int) -> int:
        """
        How many of the test images the clean accuracy is measured on.

        :param n: Their number.
        :return: The first so many.
        """
        return n if self.points is None else min(n, max(self.points, _CLEAN_POINTS))

    def judge(self, x: np.ndarray, y: np.ndarray, seed: int) -> Judgement:
        """
        Score images.

        :param x: Images.
        :param y: Class indices.
        :param seed: Seed of a random model's draws.
        :return: Which are rightly classified.
        """
        if self.random is None:
            # One answer each time would count its own noise as an attack's success, once for every attack.
            answers = [self.default.predict(x) for _ in range(self.answers)]
            return Judgement(predicted_classes(np.mean(answers, axis=0), self.default) == y)
        score = self.random.score(x, y, repeats=self.repeats, seed=seed)
        mean = np.asarray(score.correct, dtype=bool).reshape(-1, len(x))
        single = np.asarray(score.single_correct, dtype=bool).reshape(-1, len(x))
        return Judgement(mean.mean(axis=0) > 0.5, single, mean)


def cell_classifier(
    task: TrainingSpec,
    model: SensRegClassifier,
    defence: Defence | None = None,
    options: dict[str, Any] | None = None,
    budget: str = "smoke",
) -> Cell:
    """
    Make what is attacked of a trained model.

    :param task: The training task.
    :param model: The trained classifier.
    :param defence: What the model is trained by, and what stands before or behind it; None: nothing.
    :param options: Its options.
    :param budget: `smoke`, `quick` or `full`.
    :return: The cell.
    :raises NotApplicable: If the preprocessing cannot run here.

    Example:
    >>> from art_sensreg.benchmark.defences.registry import DEFENCES
    >>> from art_sensreg.benchmark.engine.target import cell_classifier
    >>> from art_sensreg.datasets import load_dataset
    >>> task = TrainingSpec(
    ...     dataset=load_dataset("digits"), model="mlp", activation="relu", norm_layer="none", seed=0, epochs=1,
    ...     batch_size=64, learning_rate=0.001, norm="linf", eps=0.1, device="cpu",
    ... )
    >>> quantise = DEFENCES["quantise"]
    >>> cell = cell_classifier(task, task.classifier(), quantise, quantise.options)
    >>> x, y = task.dataset.x_test[:2], np.eye(10, dtype=np.float32)[:2]
    >>> [bool(view.classifier.loss_gradient(x, y).any()) for view in cell.views]
    [False, True]
    """
    options = options or {}
    if defence is None:
        return Cell(model, (View("default", model),))
    if defence.random is not None:
        return _random_cell(task, model, defence.random, options, budget)
    if defence.preprocessing is not None:
        return _preprocessed_cell(task, model, defence.preprocessing, options, budget)
    if defence.postprocessing is not None:
        default = postprocessed_classifier(task, model.model, defence.postprocessing.make(options))
        return Cell(model, (View("default", default), View("adaptive", model)), answers=defence.postprocessing.answers)
    return Cell(model, (View("default", model),))


def _random_cell(
    task: TrainingSpec, model: SensRegClassifier, row: Randomness, options: dict[str, Any], budget: str
) -> Cell:
    """A model that is random at prediction: there is one way to attack it, by expectation over its draws."""
    module = model.model if row.module is None else row.module(model.model, options)
    samples = row.samples[budget]
    averaged = task.classifier(EOT(module, samples=samples))
    random = task.classifier(module, kind=RandomizedClassifier, samples=samples)
    return Cell(model, (View("default", averaged),), random, row.points[budget], REPEATS[budget])


def _preprocessed_cell(
    task: TrainingSpec, model: SensRegClassifier, row: Preprocessing, options: dict[str, Any], budget: str
) -> Cell:
    default = task.classifier(model.model, preprocessing_defences=[row.make(task, options)])
    surrogate = None if row.surrogate is None else row.surrogate(options)
    module: Any = BPDA(model.model, row.make(task, options), surrogate=surrogate)
    points = None if row.points is None else row.points[budget]
    if row.samples is None:
        return Cell(model, (View("default", default), View("adaptive", task.classifier(module))), points=points)
    samples = row.samples[budget]
    averaged = task.classifier(EOT(module, samples=samples))
    random = task.classifier(module, kind=RandomizedClassifier, samples=samples)
    views = (View("default", default), View("adaptive", averaged))
    return Cell(model, views, random, points, REPEATS[budget])
