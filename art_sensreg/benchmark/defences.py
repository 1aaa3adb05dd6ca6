"""Defences by name: one entry each, with its paper and, for `...-fixed`, what is repaired."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from art.estimators.classification import PyTorchClassifier

from art_sensreg.benchmark import art_baselines as art
from art_sensreg.benchmark.preprocessing_rows import PREPROCESSING_ROWS, NamedRow, PreprocessingRow
from art_sensreg.benchmark.task import TrainingTask
from art_sensreg.objectives import Penalty
from art_sensreg.penalties import JacobianPenalty, SensitivityPenalty
from art_sensreg.penalties.base import check_count, check_number
from art_sensreg.trainers import SensRegTrainer
from art_sensreg.training.config import CHEAP_FRACTION, TrainingConfig

Options = dict[str, Any]


@dataclass(frozen=True)
class Defence:
    """
    A defence of the suite.

    :param name: Name on the command line.
    :param summary: One line.
    :param paper: Where it comes from.
    :param train: Function of a task and the options, returning the trained classifier.
    :param options: Its options and their defaults, for `--set NAME.OPTION=VALUE`. None: the data set's recipe.
    :param ours: Whether a failure is one of this package; ART's as shipped may be not applicable.
    :param repaired: What a `...-fixed` row repairs.
    :param penalties: Function of the options that makes the penalties, for defences that train with some.
    :param preprocessing: What stands before the model at prediction time; the model itself is that of `none`.
    """

    name: str
    summary: str
    paper: str
    train: Callable[[TrainingTask, Options], PyTorchClassifier]
    options: Options = field(default_factory=dict)
    ours: bool = True
    repaired: str = ""
    penalties: Callable[[Options], list[Penalty]] | None = None
    preprocessing: PreprocessingRow | None = None


def _sensitivity_options() -> Options:
    """The options of `SensitivityPenalty`; its weight is called `sr_weight` because JR has one too."""
    defaults = {f.name: f.default for f in fields(SensitivityPenalty)}
    return {"sr_weight": None, **{name: value for name, value in defaults.items() if name != "weight"}, "sigma": None}


def _sensitivity(options: Options) -> SensitivityPenalty:
    names = {f.name for f in fields(SensitivityPenalty)} - {"weight"}
    return SensitivityPenalty(weight=options["sr_weight"], **{k: v for k, v in options.items() if k in names})


def _regularised(
    name: str, summary: str, paper: str, penalties: Callable[[Options], list[Penalty]], options: Options
) -> Defence:
    """A defence that is `SensRegTrainer` with some penalties."""

    def train(task: TrainingTask, chosen: Options) -> PyTorchClassifier:
        classifier = task.classifier()
        config = TrainingConfig(
            batch_size=task.batch_size,
            nb_epochs=task.epochs,
            seed=task.seed,
            penalty_fraction=chosen.get("penalty_fraction", 1.0),
        )
        trainer = SensRegTrainer(classifier, penalties(chosen), config)
        x, y = task.dataset.x_train, task.dataset.y_train
        trainer.fit(
            x,
            y,
            scheduler=task.one_cycle(classifier),
            checkpoint_dir=task.checkpoint_dir,
            resume=task.checkpoint_dir is not None,
            verbose=False,
        )
        return trainer.get_classifier()

    return Defence(name, summary, paper, train, options, penalties=penalties)


def _jacobian_alone(options: Options) -> list[Penalty]:
    return [JacobianPenalty(weight=options["jr_weight"], estimator=options["estimator"], probes=options["probes"])]


def _both(options: Options) -> list[Penalty]:
    return [_sensitivity(options), JacobianPenalty(weight=options["jr_weight"])]


def _preprocessed(named: NamedRow) -> Defence:
    """A defence that is a preprocessor before the model of `none`."""

    def train(task: TrainingTask, chosen: Options) -> PyTorchClassifier:
        return DEFENCES["none"].train(task, {})

    ours = not named.name.startswith("art-")
    return Defence(named.name, named.summary, named.paper, train, named.options, ours=ours, preprocessing=named.row)


_PAPER = "Fidel et al. 2020, arXiv 2009.11349"
_PGD = {"max_iter": 7}

DEFENCES = {
    defence.name: defence
    for defence in (
        _regularised("none", "No defence: cross-entropy, the twin of all others", "-", lambda options: [], {}),
        _regularised(
            "sr",
            "Stochastic sensitivity regularisation",
            _PAPER,
            lambda options: [_sensitivity(options)],
            _sensitivity_options(),
        ),
        _regularised(
            "jr",
            "Jacobian regularisation by random projection",
            "Hoffman et al. 2019, arXiv 1908.02729",
            _jacobian_alone,
            {"jr_weight": None, "estimator": "projection", "probes": 1},
        ),
        _regularised(
            "sr+jr",
            "Sensitivity and Jacobian regularisation in one pass",
            _PAPER,
            _both,
            {**_sensitivity_options(), "jr_weight": None},
        ),
        _regularised(
            "sr+jr-cheap",
            "The same with noisy copies of a part of each batch",
            _PAPER,
            _both,
            {**_sensitivity_options(), "jr_weight": None, "penalty_fraction": CHEAP_FRACTION},
        ),
        Defence(
            "art-adversarial",
            "ART AdversarialTrainer, FGM on half of each batch",
            "Goodfellow et al. 2015, arXiv 1412.6572; Tramer et al. 2018, arXiv 1705.07204",
            art.train_adversarial,
            {"ratio": 0.5},
            ours=False,
        ),
        Defence(
            "art-madry",
            "ART AdversarialTrainerMadryPGD",
            "Madry et al. 2018, arXiv 1706.06083",
            art.train_madry,
            _PGD,
            ours=False,
        ),
        Defence(
            "art-trades",
            "ART AdversarialTrainerTRADES as shipped: cross-entropy attack, no schedule",
            "Zhang et al. 2019, arXiv 1901.08573",
            art.train_trades,
            {**_PGD, "beta": 6.0, "learning_rate": 1e-3},
            ours=False,
        ),
        Defence(
            "art-trades-fixed",
            "ART AdversarialTrainerTRADES, repaired",
            "Zhang et al. 2019, arXiv 1901.08573",
            art.train_trades_fixed,
            {**_PGD, "beta": 6.0},
            repaired="the inner attack maximises KL as in the paper; a torch 2 scheduler is accepted",
        ),
        Defence(
            "art-fbf",
            "ART AdversarialTrainerFBF as shipped (SGD, its own schedule)",
            "Wong et al. 2020, arXiv 2001.03994",
            art.train_fbf,
            ours=False,
        ),
        Defence(
            "art-fbf-fixed",
            "ART AdversarialTrainerFBF, repaired",
            "Wong et al. 2020, arXiv 2001.03994",
            art.train_fbf_fixed,
            repaired="trains in training mode, and with the optimizer's own learning rate",
        ),
        Defence(
            "art-awp",
            "ART AdversarialTrainerAWP as shipped (PGD mode, no schedule)",
            "Wu et al. 2020, arXiv 2004.05884",
            art.train_awp,
            {**_PGD, "gamma": 0.005, "proxy_learning_rate": 0.01, "learning_rate": 1e-3},
            ours=False,
        ),
        Defence(
            "art-awp-fixed",
            "ART AdversarialTrainerAWP, repaired",
            "Wu et al. 2020, arXiv 2004.05884",
            art.train_awp_fixed,
            {**_PGD, "gamma": 0.005, "proxy_learning_rate": 0.01},
            repaired="a torch 2 scheduler is accepted",
        ),
        *map(_preprocessed, PREPROCESSING_ROWS),
    )
}


def resolve_options(name: str, given: Options, recipe: Options) -> Options:
    """
    Fill in a defence's options: what was given, else its default, else the recipe of the data set.

    :param name: Name of the defence.
    :param given: Options from the command line.
    :param recipe: The data set's values for the options whose default is None.
    :return: All options.
    :raises ValueError: If an option is unknown or out of range.
    :raises TypeError: If an option is of a wrong type.

    Example:
    >>> from art_sensreg.benchmark.defences import resolve_options
    >>> resolve_options("art-madry", {"max_iter": 10}, {})
    {'max_iter': 10}
    """
    defaults = DEFENCES[name].options
    for option in given:
        if option not in defaults:
            known = ", ".join(defaults) or "none"
            raise ValueError(f"`--set` names the option {option!r} of {name}; expected one of: {known}.")
    filled = {option: recipe.get(option) if value is None else value for option, value in defaults.items()}
    options = {**filled, **given}
    penalties = DEFENCES[name].penalties
    if penalties is not None:
        penalties(options)  # the penalties check their own options
        return options
    for option, value in given.items():
        if isinstance(defaults[option], int):
            check_count(option, value)
        else:
            check_number(option, value, minimum=0.0, exclusive=True)
    return options
