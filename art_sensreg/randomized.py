"""A classifier whose model is random at test time: predictions and gradients average samples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from torch import nn

from art_sensreg.attacks.eot import AVERAGES, EOT, averaged, random_state_kept
from art_sensreg.attacks.views import labels_of
from art_sensreg.classifiers import SensRegClassifier
from art_sensreg.penalties.base import check_choice, check_count


@dataclass(frozen=True, kw_only=True)
class RandomizedScore:
    """
    How a random model does on given images, scored several times with fresh samples.

    :param single_draw: Accuracy of one draw, mean over the repeats.
    :param single_draw_spread: Its standard deviation over the repeats.
    :param mean: Accuracy of the mean of `samples` draws, mean over the repeats.
    :param mean_spread: Its standard deviation over the repeats.
    :param repeats: Number of times.
    :param samples: Draws that are averaged.
    :param correct: Which images the mean prediction takes for their label, `(repeats, n)`.
    :param single_correct: The same of one draw, `(repeats, n)`.
    """

    single_draw: float
    single_draw_spread: float
    mean: float
    mean_spread: float
    repeats: int
    samples: int
    correct: np.ndarray = field(repr=False)
    single_correct: np.ndarray = field(repr=False)


class RandomizedClassifier(SensRegClassifier):
    """
    A :class:`SensRegClassifier` whose model is random at test time.

    The model is wrapped into `EOT`, so that predictions and gradients are means over samples for every attack of ART,
    those that rebuild a plain classifier from `.model` included. `fit` trains with single draws. Weights are saved
    under the names that they have in the `EOT` module (`model.` and the name).

    | Paper link: https://arxiv.org/abs/1802.00420 (Athalye et al. 2018, section 4.2)

    :param model: Module from images to logits, or an `EOT` module around one.
    :param args: As for `SensRegClassifier`.
    :param samples: Draws that are averaged.
    :param average: `logits` or `probabilities`, as for `EOT`.
    :param kwargs: As for `SensRegClassifier`.
    :raises TypeError: If an argument is of a wrong type.
    :raises ValueError: If an argument is out of range.

    Example:
    >>> from art_sensreg import RandomizedClassifier
    >>> class Noisy(nn.Module):
    ...     def forward(self, x):
    ...         return x + 0.5 * x.new_empty(x.shape).normal_()
    >>> classifier = RandomizedClassifier(Noisy(), nn.CrossEntropyLoss(), (2,), 2, samples=64)
    >>> score = classifier.score(np.array([[1.0, 0.0]] * 100), np.zeros(100, dtype=int), repeats=5, seed=0)
    >>> score.single_draw < score.mean == 1.0, score.mean_spread
    (True, 0.0)
    """

    estimator_params: ClassVar[list[str]] = [*SensRegClassifier.estimator_params, "samples", "average"]

    def __init__(
        self, model: nn.Module, *args: Any, samples: int | None = None, average: str | None = None, **kwargs: Any
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"`model` is {type(model).__name__}; expected an nn.Module from images to logits.")
        if not isinstance(model, EOT):
            model = EOT(model, samples=16 if samples is None else samples, average=average or "logits")
        given = {"samples": samples, "average": average}
        _check(given)
        super().__init__(averaged(model, **{k: v for k, v in given.items() if v is not None}), *args, **kwargs)

    @property
    def eot(self) -> EOT:
        """The module that averages."""
        module = self.model
        assert isinstance(module, EOT)
        return module

    @property
    def samples(self) -> int:
        """Draws that are averaged."""
        return self.eot.samples

    @samples.setter
    def samples(self, samples: int) -> None:
        check_count("samples", samples)
        self.eot.samples = samples

    @property
    def average(self) -> str:
        """What is averaged: `logits` or `probabilities`."""
        return self.eot.average

    @average.setter
    def average(self, average: str) -> None:
        check_choice("average", average, AVERAGES)
        self.eot.average = average

    def set_params(self, **kwargs: Any) -> None:
        """
        Set parameters by name, as `get_params` returns them.

        :param kwargs: Parameters of the classifier; a `model` that is no `EOT` is wrapped.
        :raises ValueError: If a name is unknown or a value is not usable.
        """
        _check(kwargs)
        if "model" in kwargs and not isinstance(kwargs["model"], EOT):
            kwargs["model"] = EOT(kwargs["model"], samples=self.samples, average=self.average)
        super().set_params(**kwargs)

    def score(
        self, x: np.ndarray, y: Any, repeats: int = 10, batch_size: int = 128, seed: int | None = None
    ) -> RandomizedScore:
        """
        Score images, adversarial ones say, several times with fresh samples.

        An attack on a random model keeps what was misclassified once; whether it is misclassified again is another
        question, which this answers.

        :param x: Images `(n, *input_shape)`.
        :param y: Class indices `(n,)`, or rows `(n, nb_classes)`.
        :param repeats: Number of times.
        :param batch_size: Rows of a batch.
        :param seed: Seed of the draws; None: the global state of torch and numpy. With a seed that is left as it was.
        :return: Accuracy of one draw and of the mean prediction, with their spread.
        :raises ValueError: If labels do not fit, or an argument is out of range.

        Example:
        >>> from art_sensreg import RandomizedClassifier
        >>> classifier = RandomizedClassifier(nn.Identity(), nn.CrossEntropyLoss(), (2,), 2)
        >>> classifier.score(np.eye(2), np.eye(2), repeats=3).mean
        1.0
        """
        check_count("repeats", repeats)
        labels = labels_of(self, y, len(x))
        if not len(labels):
            raise ValueError("`x` is empty; expected at least one image.")
        single, mean = [], []
        with nullcontext() if seed is None else random_state_kept(self.device, seed):
            for _ in range(repeats):
                mean.append(self.predict(x, batch_size=batch_size).argmax(axis=1) == labels)
                with _one_draw(self.eot):
                    single.append(self.predict(x, batch_size=batch_size).argmax(axis=1) == labels)
        return RandomizedScore(
            **_moments("single_draw", np.stack(single)),
            **_moments("mean", np.stack(mean)),
            repeats=repeats,
            samples=self.samples,
            correct=np.stack(mean),
            single_correct=np.stack(single),
        )


@contextmanager
def _one_draw(module: EOT) -> Iterator[None]:
    samples, module.samples = module.samples, 1
    try:
        yield
    finally:
        module.samples = samples


def _moments(name: str, outcomes: np.ndarray) -> dict[str, float]:
    shares = outcomes.mean(axis=1)
    spread = float(shares.std(ddof=1)) if len(shares) > 1 else 0.0
    return {name: float(shares.mean()), f"{name}_spread": spread}


def _check(settings: dict[str, Any]) -> None:
    if settings.get("samples") is not None:
        check_count("samples", settings["samples"])
    if settings.get("average") is not None:
        check_choice("average", settings["average"], AVERAGES)
