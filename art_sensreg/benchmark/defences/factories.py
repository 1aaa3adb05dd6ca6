"""Short ways to make a defence: from penalties, or from any ART trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from art.defences.trainer import Trainer
from art.estimators.classification import PyTorchClassifier

from art_sensreg.benchmark.defences.spec import Defence, Options
from art_sensreg.benchmark.defences.train_spec import TrainingSpec
from art_sensreg.penalty_lists import Penalty


def from_penalties(
    name: str,
    summary: str,
    paper: str,
    penalties: Callable[[Options], list[Penalty]],
    options: Options | None = None,
    **fields: Any,
) -> Defence:
    """
    A defence that trains with `SensRegTrainer`, given penalties and possibly an adversary, whose size may then rise
    (option `eps_warmup`).

    :param name: Name on the command line.
    :param summary: One line.
    :param paper: Its source.
    :param penalties: Function of the options that makes the penalties.
    :param options: Its options and their defaults.
    :param fields: Further fields of `Defence`: `adversary`, `claim`, `norms`, `architecture`, `random`, ...
    :return: The defence.

    Example:
    >>> from art_sensreg import JacobianPenalty
    >>> from art_sensreg.benchmark.defences import from_penalties
    >>> defence = from_penalties(
    ...     "jr-exact", "Exact Jacobian", "-", lambda options: [JacobianPenalty(weight=options["w"])], {"w": 1.0}
    ... )
    >>> defence.penalties({"w": 2.0})[0].weight
    2.0
    """
    rising = {"eps_warmup": 0.0} if fields.get("adversary") else {}
    return Defence(name, summary, paper, {**rising, **(options or {})}, penalties=penalties, **fields)


def from_trainer(
    name: str,
    summary: str,
    paper: str,
    trainer: Callable[[PyTorchClassifier, TrainingSpec, Options], Trainer],
    options: Options | None = None,
    **fields: Any,
) -> Defence:
    """
    A defence that trains with any ART trainer.

    :param name: Name on the command line.
    :param summary: One line.
    :param paper: Its source.
    :param trainer: Function of a new classifier, the training specification and the options that makes the trainer.
    :param options: Its options and their defaults.
    :param fields: Further fields of `Defence`: `claim`, `norms`, `architecture`, ...
    :return: The defence.

    Example:
    >>> from art.defences.trainer import AdversarialTrainerFBFPyTorch
    >>> from art_sensreg.benchmark.defences import from_trainer
    >>> make = lambda model, spec, options: AdversarialTrainerFBFPyTorch(model, spec.eps)
    >>> defence = from_trainer("fbf", "FBF", "-", make)
    >>> defence.name, defence.claim.metric
    ('fbf', 'robust_accuracy')
    """
    return Defence(name, summary, paper, options or {}, trainer=trainer, **fields)
