"""The description of a defence: how it trains, what is applied before and after the model, and what it claims."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np
import torch
from art.defences.postprocessor.postprocessor import Postprocessor
from art.defences.preprocessor.preprocessor import Preprocessor
from art.defences.trainer import Trainer
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.adversaries import Adversary
from art_sensreg.benchmark.config.threat_models import NORMS
from art_sensreg.benchmark.defences.claims import Claim, robust_accuracy
from art_sensreg.benchmark.defences.train_spec import NotApplicable, TrainingSpec
from art_sensreg.penalty_lists import Penalty
from art_sensreg.trainers import SensRegTrainer
from art_sensreg.training.config import TrainingConfig
from art_sensreg.utils import check_choice, check_count, check_number

Options = dict[str, Any]
ALL_NORMS = tuple(NORMS)
# Options that are settings of `TrainingConfig`, where a defence has them.
_CONFIG_OPTIONS = ("penalty_fraction", "penalty_warmup", "eps_warmup", "awp_gamma")


@dataclass(frozen=True, kw_only=True)
class Randomness:
    """
    A model that is random at prediction time: attacked only by expectation over its draws, scored on fresh ones.

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

    :param norm: The norm of its certificates.
    :param certify: Function of the training specification, the trained model, images, class indices, eps and the
        options that returns which images are provably classified correctly everywhere within eps, `(n,)`.
    :param sizes: Function of the options that returns the sizes that can be certified, which are added to the run's;
        None: the run's, or else the data set's.
    :param points: Most images that are certified, by budget.
    """

    norm: str
    certify: Callable[[TrainingSpec, nn.Module, np.ndarray, np.ndarray, float, Options], np.ndarray]
    sizes: Callable[[Options], tuple[float, ...]] | None = None
    points: dict[str, int] = field(default_factory=lambda: {"smoke": 50, "quick": 100, "full": 1000})


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """
    What is applied before the model at prediction time.

    :param make: Function of the training specification and the options that makes ART's preprocessor.
    :param surrogate: Function of the options that makes the differentiable substitute for BPDA; None: the identity.
    :param samples: Draws that EOT averages, by budget; None: the preprocessor is not random.
    :param points: Most images that are attacked, by budget, through a slow preprocessor; None: all.
    """

    make: Callable[[TrainingSpec, Options], Preprocessor]
    surrogate: Callable[[Options], Callable[[torch.Tensor], torch.Tensor]] | None = None
    samples: dict[str, int] | None = None
    points: dict[str, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Postprocessing:
    """
    What is applied to the probabilities of the model.

    :param make: Function of the options that makes ART's postprocessor.
    :param answers: Answers whose mean is scored: more than one where two equal queries are answered differently.
    """

    make: Callable[[Options], Postprocessor]
    answers: int = 1


@dataclass(frozen=True)
class Defence:
    """
    A defence of the suite. It trains a model in one of three ways (`penalties`, `trainer`, `training`), or in none:
    then it wraps the model of the defence `none`.

    :param name: Name on the command line.
    :param summary: One line.
    :param paper: Its source.
    :param options: Its options and their defaults, for `--set NAME.OPTION=VALUE`. None: the value for the data set; an
        `eps` of None is the size of the perturbations in adversarial training.
    :param claim: What it claims to stop, and the metric.
    :param penalties: Function of the options that makes the penalties that `SensRegTrainer` trains with.
    :param adversary: Function of the options that makes the adversary of `SensRegTrainer`, or None.
    :param trainer: Function of a new classifier, the training specification and the options that makes an ART trainer.
    :param training: Function of the training specification and the options that returns the trained classifier.
    :param architecture: Function of the training specification and the options that makes the untrained model; None:
        that of the run.
    :param norms: Norms in which it can train; in the others it is not applicable.
    :param norms_reason: Why only in these.
    :param ours: Whether it is this package's own.
    :param repaired: What a `...-fixed` defence fixes, and why.
    :param preprocessing: What is applied before the model at prediction time, or None.
    :param postprocessing: What changes the predictions, or None.
    :param random: How the model is random at prediction time, or None.
    :param certificate: How it certifies, or None.
    :param check: Function of the options that raises if one of them is unusable, or None.
    :param fixed: Settings of the optimisation that its training cannot take, each with the reason.
    """

    name: str
    summary: str
    paper: str
    options: Options = field(default_factory=dict)
    claim: Claim = robust_accuracy()  # noqa: RUF009 - frozen
    _: KW_ONLY
    penalties: Callable[[Options], list[Penalty]] | None = None
    adversary: Callable[[Options], Adversary] | None = None
    trainer: Callable[[PyTorchClassifier, TrainingSpec, Options], Trainer] | None = None
    training: Callable[[TrainingSpec, Options], PyTorchClassifier] | None = None
    architecture: Callable[[TrainingSpec, Options], nn.Module] | None = None
    norms: tuple[str, ...] = ALL_NORMS
    norms_reason: str = ""
    ours: bool = True
    repaired: str = ""
    preprocessing: Preprocessing | None = None
    postprocessing: Postprocessing | None = None
    random: Randomness | None = None
    certificate: Certificate | None = None
    check: Callable[[Options], Any] | None = None
    fixed: Mapping[str, str] = field(default_factory=dict)

    @property
    def trained(self) -> bool:
        """Whether it trains a model of its own; else it takes that of `none`."""
        return any(way is not None for way in (self.penalties, self.trainer, self.training))

    @property
    def from_art(self) -> bool:
        """Whether it is one of ART's, as shipped or repaired."""
        return not self.ours or bool(self.repaired)

    @property
    def answered_for(self) -> bool:
        """Whether a crash is an error: of what is our own, or repaired by us. What ART ships may be not applicable."""
        return self.ours or bool(self.repaired)

    def new_model(self, spec: TrainingSpec, options: Options) -> nn.Module:
        """The untrained model, whose weights are what training changes."""
        return spec.new_model() if self.architecture is None else self.architecture(spec, options)

    def train(self, spec: TrainingSpec, options: Options) -> PyTorchClassifier:
        """
        Train a model; without a training of its own, as the defence `none` does.

        :param spec: What every defence of the run is trained with.
        :param options: All options of the defence.
        :return: The trained classifier.
        :raises NotApplicable: If it cannot be trained here.
        """
        if spec.norm not in self.norms:
            norms = " or ".join(self.norms)
            reason = self.norms_reason or f"{self.name} trains on perturbations in {norms} only"
            raise NotApplicable(f"{reason}; this run is in {spec.norm}")
        changed = spec.optimization.changed
        for name, reason in self.fixed.items():
            self._require(name not in changed, reason, name)
        half = spec.optimization.precision == "float16" and bool(options.get("awp_gamma"))
        self._require(not half, "float16 scales the gradients that adversarial weight perturbation needs", "precision")
        classifier = self._train(spec, options)
        for name in changed:
            self._require(name in spec.taken, f"the training of {self.name} does not take it", name)
        return classifier

    def _require(self, possible: bool, reason: str, name: str) -> None:
        if not possible:
            raise NotApplicable(f"`{name}`: {reason} ({self.name}.{name}=None trains it in its own way)")

    def _train(self, spec: TrainingSpec, options: Options) -> PyTorchClassifier:
        if self.training is not None:
            return self.training(spec, options)
        classifier = spec.trainee(self.new_model(spec, options))
        if self.trainer is not None:
            return spec.fit(self.trainer(classifier, spec, options))
        penalties = [] if self.penalties is None else self.penalties(options)
        adversary = None if self.adversary is None else self.adversary(options)
        config = spec.config(**_config_options(options))
        return spec.fit(SensRegTrainer(classifier, penalties, config, adversary=adversary))

    def check_options(self, options: Options, given: Options) -> None:
        """
        Check the options before anything is trained.

        :param options: All options.
        :param given: Those that a user chose.
        :raises ValueError: If one is out of range.
        :raises TypeError: If one has the wrong type.
        """
        if self.check is not None:
            self.check(options)
        if self.penalties is None:
            for name, value in given.items():
                _check_like(name, value, self.options[name])
            return
        # Configuration, adversary and penalties check their own options.
        TrainingConfig(**_config_options(options))
        if "norm" in given:
            check_choice("norm", given["norm"], self.norms)
        if options.get("norm", "linf") not in self.norms:
            return  # `train` says so
        if self.adversary is not None:
            self.adversary(options)
        self.penalties(options)


def _config_options(options: Options) -> Options:
    return {name: options[name] for name in _CONFIG_OPTIONS if options.get(name) is not None}


def _check_like(name: str, value: Any, default: Any) -> None:
    """Check an option by the type of its default."""
    if value is None and default is None:
        return
    if isinstance(default, str):
        check_choice(name, value, [value] if isinstance(value, str) else [default])  # which ones, `check` knows
    elif isinstance(default, int):
        check_count(name, value)
    elif not isinstance(value, str):
        check_number(name, value, minimum=0.0)
    elif name != "norm":
        raise TypeError(f"`{name}` is {value!r}; expected a number.")


def within(above_zero: tuple[str, ...] = (), at_most_one: tuple[str, ...] = ()) -> Callable[[Options], None]:
    """A check of options that ART checks late, in the middle of training, or never."""

    def check(options: Options) -> None:
        for name in dict.fromkeys((*above_zero, *at_most_one)):
            maximum = 1.0 if name in at_most_one else math.inf
            check_number(name, options[name], 0.0, exclusive=name in above_zero, maximum=maximum)

    return check
