"""What the suite knows of a defence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from art.defences.postprocessor.postprocessor import Postprocessor
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.benchmark.defences.claims import Claim
from art_sensreg.benchmark.defences.from_art.preprocessing import PreprocessingRow
from art_sensreg.benchmark.defences.train_spec import TrainingSpec
from art_sensreg.penalty_lists import Penalty

Options = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RandomRow:
    """
    A model that is random at prediction time: attacked by expectation over its draws only, scored with fresh ones.

    :param samples: Draws that EOT averages, by budget.
    :param points: Most images that are attacked, by budget.
    :param module: Function of the trained model and the options that makes the random one; None: it is random itself.
    """

    samples: dict[str, int] = field(default_factory=lambda: {"smoke": 4, "quick": 8, "full": 16})
    points: dict[str, int] = field(default_factory=lambda: {"smoke": 50, "quick": 50, "full": 1000})
    module: Callable[[nn.Module, Options], nn.Module] | None = None


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """
    How a defence certifies.

    :param norm: Norm in which it does.
    :param certify: Function of the spec, the trained model, images, class indices, eps and the options that tells which
        images are provably right at every perturbation within eps, `(n,)`.
    :param sizes: Function of the options that gives the sizes of which it can say something; they are taken where the
        run has none in this norm. None: the data set's own.
    :param points: Most images that are certified, by budget.
    """

    norm: str
    certify: Callable[[TrainingSpec, nn.Module, np.ndarray, np.ndarray, float, Options], np.ndarray]
    sizes: Callable[[Options], tuple[float, ...]] | None = None
    points: dict[str, int] = field(default_factory=lambda: {"smoke": 50, "quick": 100, "full": 1000})


@dataclass(frozen=True)
class Defence:
    """
    A defence of the suite.

    :param name: Name on the command line.
    :param summary: One line.
    :param paper: Where it comes from.
    :param train: Function of a spec and the options, returning the trained classifier.
    :param options: Its options and their defaults, for `--set NAME.OPTION=VALUE`. None: the data set's recipe; an `eps`
        of None is the size that adversarial training trains at.
    :param claim: What it claims to stop, and the metric for it.
    :param ours: Whether it is this package's own.
    :param repaired: What a `...-fixed` row repairs, and why.
    :param penalties: Function of the options that makes the penalties, for defences that train with some.
    :param preprocessing: What stands before the model at prediction time; the model itself is that of `none`.
    :param postprocessing: Function of the options that makes what changes the predictions of the model of `none`.
    :param answers: Answers whose mean is scored: more than one where postprocessing makes them random.
    :param architecture: Function of a spec and the options that makes the untrained model; None: the spec's own.
    :param random: How the model is random at prediction time, or None.
    :param certificate: How it certifies, or None.
    :param check: Function of the options that raises where one of them is not usable, or None.
    """

    name: str
    summary: str
    paper: str
    train: Callable[[TrainingSpec, Options], PyTorchClassifier]
    options: Options = field(default_factory=dict)
    claim: Claim = Claim(metric="robust_accuracy", threat="white-box evasion within eps")  # noqa: RUF009 - frozen
    ours: bool = True
    repaired: str = ""
    penalties: Callable[[Options], list[Penalty]] | None = None
    preprocessing: PreprocessingRow | None = None
    postprocessing: Callable[[Options], Postprocessor] | None = None
    answers: int = 1
    architecture: Callable[[TrainingSpec, Options], nn.Module] | None = None
    random: RandomRow | None = None
    certificate: Certificate | None = None
    check: Callable[[Options], Any] | None = None

    @property
    def trained(self) -> bool:
        """Whether it trains a model of its own; else it takes that of `none`."""
        return self.preprocessing is None and self.postprocessing is None

    @property
    def answered_for(self) -> bool:
        """Whether a crash is an error: of what is our own, or repaired by us. What ART ships may be not applicable."""
        return self.ours or bool(self.repaired)

    def new_model(self, spec: TrainingSpec, options: Options) -> nn.Module:
        """
        The untrained model, whose weights are what training changes.

        :param spec: The training spec.
        :param options: The defence's options.
        :return: The model.
        """
        return spec.new_model() if self.architecture is None else self.architecture(spec, options)
