"""A classifier whose model is random at test time: predictions and gradients average samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from art.defences.postprocessor.postprocessor import Postprocessor
from art.defences.preprocessor.preprocessor import Preprocessor
from torch import nn

from art_sensreg.art_bridge import check_images, check_labels, class_indices, numpy_dtype
from art_sensreg.attacks.wrappers.eot import AVERAGES, EOT
from art_sensreg.classifiers import SensRegClassifier
from art_sensreg.outputs import predicted_classes
from art_sensreg.penalty_lists import Penalty
from art_sensreg.utils import check_choice, check_count, check_seed
from art_sensreg.utils.model_rng import preserve_rng_state


@dataclass(frozen=True, kw_only=True)
class RandomizedScore:
    """
    The accuracy of a random model on given images, measured several times with fresh samples.

    Spreads are sample standard deviations over the repeats: the error of a single scoring due to the model's
    randomness, not to the small number of images. NaN for a single repeat.

    :param single_draw: Accuracy of one draw, mean over the repeats.
    :param single_draw_spread: Its spread.
    :param mean: Accuracy of the mean of `samples` draws, mean over the repeats.
    :param mean_spread: Its spread.
    :param repeats: Number of times.
    :param samples: Draws that are averaged.
    :param correct: Which images the mean prediction classifies correctly, `(repeats, n)`.
    :param single_correct: The same for one draw, `(repeats, n)`.
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

    The model is wrapped into `EOT`, and `.model` is that module: predictions and gradients are means over samples for
    every attack of ART, including those that rebuild a plain classifier from `.model`. `fit` trains with single draws;
    its validation data are scored by the mean. Layers, for penalties and activations, are named as in that module:
    `model.` and the user's own name.

    Weight files contain only the user's model, so that `SensRegClassifier` and this class can read each other's; only
    if a `transform` of the `EOT` has weights too do they contain both.

    | Paper link: https://arxiv.org/abs/1802.00420 (Athalye et al. 2018, section 4.2)

    :param model: Module from images to logits; or an `EOT` module around one, for its other settings.
    :param loss: This and what follows: as for `SensRegClassifier`.
    :param samples: Draws that are averaged; None: 16, or those of the `EOT` given.
    :param average: `logits` or `probabilities`, as for `EOT`; None: `logits`, or that of the `EOT` given.
    :raises TypeError: If an argument has the wrong type.
    :raises ValueError: If an argument is out of range.

    Example:
    >>> from art_sensreg.randomized import RandomizedClassifier
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
        self,
        model: nn.Module,
        loss: Any,
        input_shape: tuple[int, ...],
        nb_classes: int,
        optimizer: torch.optim.Optimizer | None = None,
        use_amp: bool = False,
        opt_level: str = "O1",
        loss_scale: float | str | None = "dynamic",
        channels_first: bool = True,
        clip_values: Any = None,
        preprocessing_defences: Preprocessor | list[Preprocessor] | None = None,
        postprocessing_defences: Postprocessor | list[Postprocessor] | None = None,
        preprocessing: Any = (0.0, 1.0),
        device_type: str = "gpu",
        *,
        penalties: Sequence[Penalty] | None = None,
        samples: int | None = None,
        average: str | None = None,
    ) -> None:
        if not isinstance(model, EOT):
            model = EOT(model, 16 if samples is None else samples, average="logits" if average is None else average)
        super().__init__(
            model=model,
            loss=loss,
            input_shape=input_shape,
            nb_classes=nb_classes,
            optimizer=optimizer,
            use_amp=use_amp,
            opt_level=opt_level,
            loss_scale=loss_scale,
            channels_first=channels_first,
            clip_values=clip_values,
            preprocessing_defences=preprocessing_defences,
            postprocessing_defences=postprocessing_defences,
            preprocessing=preprocessing,
            device_type=device_type,
            penalties=penalties,
        )
        self._layer_names = self._names_of_layers()
        if samples is not None:
            self.samples = samples
        if average is not None:
            self.average = average

    @property
    def eot(self) -> EOT:
        """The module that averages: `model`, by its type."""
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
        self.eot.samples = int(samples)

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

        :param kwargs: Parameters of the classifier; a `model` that is not an `EOT` is wrapped with the same settings.
        :raises TypeError: If a value has the wrong type.
        :raises ValueError: If a name is unknown or a value is unusable.
        """
        settings = {"samples": self.samples, "average": self.average}
        # Checked before anything changes.
        wanted = EOT(nn.Identity(), **{name: kwargs.get(name, value) for name, value in settings.items()})
        if "model" in kwargs and not isinstance(kwargs["model"], EOT):
            kwargs["model"] = EOT(kwargs["model"], samples=wanted.samples, average=wanted.average)
        super().set_params(**kwargs)
        self._layer_names = self._names_of_layers()

    def _names_of_layers(self) -> list[str]:
        # ART knows the outermost layers; the user's, not the one layer of the module around them.
        return [f"model.{name}" for name, _ in self.eot.model.named_children()] or ["model"]

    def get_activations(
        self, x: Any, layer: int | str | None = None, batch_size: int = 128, framework: bool = False
    ) -> Any:
        """
        Activations of one layer in one draw.

        :param x: Images `(n, *input_shape)`.
        :param layer: Name or index of the layer.
        :param batch_size: Images per forward pass.
        :param framework: Whether a torch tensor is returned.
        :return: Activations `(n, ...)`.
        """
        with self.eot.single_draws():
            return super().get_activations(x, layer=layer, batch_size=batch_size, framework=framework)

    def save(self, filename: str, path: str | None = None) -> None:
        """
        Save the weights of the user's model, and the optimizer's state if there is one, as `filename.safetensors`.

        :param filename: As for :meth:`SensRegClassifier.save`, whose errors this raises too.
        :param path: As there.
        """
        with self._weights_alone():
            super().save(filename, path)

    def load_weights(self, filename: str, path: str | None = None) -> None:
        """
        Load what `save` of this class, or of `SensRegClassifier` around the same model, wrote.

        :param filename: As for :meth:`SensRegClassifier.load_weights`, whose errors this raises too.
        :param path: As there.
        """
        with self._weights_alone():
            super().load_weights(filename, path)
        self.eot.forget()

    @contextmanager
    def _weights_alone(self) -> Iterator[None]:
        """Inside, the classifier's model is the user's own, unless the transform has weights too."""
        wrapper, transform = self._model, self.eot.transform
        if not (isinstance(transform, nn.Module) and transform.state_dict()):
            self._model = self._make_model_wrapper(self.eot.model)
        try:
            yield
        finally:
            self._model = wrapper

    def score(
        self, x: np.ndarray, y: Any, repeats: int = 10, batch_size: int = 128, seed: int | None = None
    ) -> RandomizedScore:
        """
        Score images, for example adversarial ones, several times with fresh samples.

        An attack on a random model keeps whatever was misclassified once; this measures whether it is misclassified
        again.

        :param x: Images `(n, *input_shape)`, finite.
        :param y: Class indices `(n,)`, or class probabilities `(n, nb_classes)`.
        :param repeats: Number of times.
        :param batch_size: Size of a batch.
        :param seed: Seed of the draws; the global random states are then left unchanged. None: draw from those.
        :return: Accuracy of one draw and of the mean prediction, with their spreads.
        :raises TypeError: If an argument has the wrong type.
        :raises ValueError: If images and labels do not fit, or an argument is out of range.

        Example:
        >>> from art_sensreg.randomized import RandomizedClassifier
        >>> classifier = RandomizedClassifier(nn.Identity(), nn.CrossEntropyLoss(), (2,), 2)
        >>> classifier.score(np.eye(2), [0, 1], repeats=3)
        RandomizedScore(single_draw=1.0, single_draw_spread=0.0, mean=1.0, mean_spread=0.0, repeats=3, samples=16)
        """
        check_count("repeats", repeats)
        check_count("batch_size", batch_size)
        if seed is not None:
            check_seed("seed", seed)
        images = check_images(x, self.input_shape, dtype=numpy_dtype(self.model))
        labels = class_indices(check_labels(y, self.nb_classes, len(images)))
        single, mean = [], []
        with nullcontext() if seed is None else preserve_rng_state(self.device, seed, self.model):
            for _ in range(repeats):
                mean.append(self._classes(images, batch_size) == labels)
                with self.eot.single_draws():
                    single.append(self._classes(images, batch_size) == labels)
        return RandomizedScore(
            **_moments("single_draw", np.stack(single)),
            **_moments("mean", np.stack(mean)),
            repeats=repeats,
            samples=self.samples,
            correct=np.stack(mean),
            single_correct=np.stack(single),
        )

    def _classes(self, x: np.ndarray, batch_size: int) -> np.ndarray:
        return predicted_classes(self.predict(x, batch_size=batch_size), self)


def _moments(name: str, outcomes: np.ndarray) -> dict[str, float]:
    shares = outcomes.mean(axis=1)
    spread = float(shares.std(ddof=1)) if len(shares) > 1 else float("nan")
    return {name: float(shares.mean()), f"{name}_spread": spread}
