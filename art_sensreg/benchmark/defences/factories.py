"""Makers of rows of the suite: from penalties, or from any ART trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from art.defences.trainer import Trainer
from art.estimators.classification import PyTorchClassifier
from art.utils import to_categorical
from torch import nn

from art_sensreg.adversaries import Adversary
from art_sensreg.benchmark.config.threat_models import NORMS
from art_sensreg.benchmark.defences.claims import Claim, robust_accuracy
from art_sensreg.benchmark.defences.spec import Defence, Options
from art_sensreg.benchmark.defences.train_spec import TrainingSpec
from art_sensreg.penalty_lists import Penalty
from art_sensreg.trainers import SensRegTrainer
from art_sensreg.training.config import TrainingConfig

MakePenalties = Callable[[Options], list[Penalty]]
MakeAdversary = Callable[[Options], Adversary]
MakeTrainer = Callable[[PyTorchClassifier, TrainingSpec, Options], Trainer]

WHITE_BOX = robust_accuracy()


def from_penalties(
    name: str,
    summary: str,
    paper: str,
    penalties: MakePenalties,
    options: Options | None = None,
    claim: Claim = WHITE_BOX,
    adversary: MakeAdversary | None = None,
    norms: tuple[str, ...] = tuple(NORMS),
    **more: Any,
) -> Defence:
    """
    A row that is `SensRegTrainer` with some penalties, and perhaps an adversary.

    :param name: Name on the command line.
    :param summary: One line.
    :param paper: Where it comes from.
    :param penalties: Function of the options that makes the penalties.
    :param options: Its options and their defaults.
    :param claim: What it claims to stop.
    :param adversary: Function of the options that makes the adversary, or None.
    :param norms: Norms in which it can train; in the others it is not applicable.
    :param more: Further fields of `Defence`.
    :return: The row.

    Example:
    >>> from art_sensreg import JacobianPenalty
    >>> from art_sensreg.benchmark.defences.factories import from_penalties
    >>> row = from_penalties(
    ...     "jr-exact", "Exact Jacobian", "-", lambda options: [JacobianPenalty(weight=options["w"])], {"w": 1.0}
    ... )
    >>> row.penalties({"w": 2.0})[0].weight
    2.0
    """

    def checked(chosen: Options) -> list[Penalty]:
        # All of these check their options.
        TrainingConfig(**_of_config(chosen))
        if adversary is not None and chosen.get("norm", "linf") in norms:
            adversary(chosen)
        return penalties(chosen)

    def make(classifier: PyTorchClassifier, spec: TrainingSpec, chosen: Options) -> Trainer:
        spec.require_norm(norms, f"{name} trains on perturbations in {' or '.join(norms)} only")
        opponent = None if adversary is None else adversary(chosen)
        config = config_of(spec, **_of_config(chosen))
        return SensRegTrainer(classifier, penalties(chosen), config, adversary=opponent)

    return from_trainer(name, summary, paper, make, options, claim, penalties=checked, **more)


def from_trainer(
    name: str,
    summary: str,
    paper: str,
    trainer: MakeTrainer,
    options: Options | None = None,
    claim: Claim = WHITE_BOX,
    architecture: Callable[[TrainingSpec, Options], nn.Module] | None = None,
    **more: Any,
) -> Defence:
    """
    A row that is any ART trainer: `SensRegTrainer` and its like get schedule and checkpoints, others data and epochs.

    :param name: Name on the command line.
    :param summary: One line.
    :param paper: Where it comes from.
    :param trainer: Function of a new classifier, the spec and the options that makes the trainer.
    :param options: Its options and their defaults.
    :param claim: What it claims to stop.
    :param architecture: As for `Defence`.
    :param more: Further fields of `Defence`.
    :return: The row.

    Example:
    >>> from art.defences.trainer import AdversarialTrainerFBFPyTorch
    >>> from art_sensreg.benchmark.defences.factories import from_trainer
    >>> make = lambda model, spec, options: AdversarialTrainerFBFPyTorch(model, spec.eps)
    >>> row = from_trainer("fbf", "FBF", "-", make)
    >>> row.name, row.claim.metric
    ('fbf', 'robust_accuracy')
    """

    def train(spec: TrainingSpec, chosen: Options) -> PyTorchClassifier:
        model = None if architecture is None else architecture(spec, chosen)
        classifier = spec.classifier(model)
        made = trainer(classifier, spec, chosen)
        x, y = spec.dataset.x_train, spec.dataset.y_train
        if isinstance(made, SensRegTrainer):
            made.fit(
                x,
                y,
                scheduler=spec.one_cycle(classifier),
                checkpoint_dir=spec.checkpoint_dir,
                resume=spec.checkpoint_dir is not None,
                verbose=False,
            )
        else:
            labels = to_categorical(y, spec.dataset.nb_classes)  # some of ART's trainers take no indices
            made.fit(x, labels, batch_size=spec.batch_size, nb_epochs=spec.epochs)
        return made.get_classifier()

    return Defence(name, summary, paper, train, options or {}, claim, architecture=architecture, **more)


def _of_config(options: Options) -> Options:
    return {name: options[name] for name in ("penalty_fraction", "penalty_warmup") if name in options}


def config_of(spec: TrainingSpec, **settings: Any) -> TrainingConfig:
    return TrainingConfig(batch_size=spec.batch_size, nb_epochs=spec.epochs, seed=spec.seed, **settings)
