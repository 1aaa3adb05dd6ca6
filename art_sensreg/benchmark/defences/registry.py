"""The registry of defences by name, and their options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from art_sensreg.benchmark.config.names import check_new_name
from art_sensreg.benchmark.config.optimization import OPTIMIZATION_OPTIONS, OptimizationSettings
from art_sensreg.benchmark.config.settings import FILE_RECIPE, RECIPES, SuiteSettings
from art_sensreg.benchmark.defences.from_art import FROM_ART
from art_sensreg.benchmark.defences.ibp import INTERVALS
from art_sensreg.benchmark.defences.ours import OURS
from art_sensreg.benchmark.defences.rivals import RIVALS
from art_sensreg.benchmark.defences.spec import Defence, Options
from art_sensreg.utils.checks import check_number, did_you_mean

DEFENCES: dict[str, Defence] = {}
SMOKE_DEFENCES = (
    *("none", "sr", "jr", "sr+jr", "sr+jr-cheap", "n-fgsm+sr+jr", "at+sr+jr", "carried+sr+jr", "fire"),
    *("art-adversarial", "art-madry", "art-trades-fixed", "art-fbf-fixed"),
    *("art-spatial-smoothing", "art-gaussian-augmentation", "quantise"),
)
"""The default defences, which run in minutes; `--defences all` runs the others too."""

ADVERSARIALLY_TRAINED = (
    "art-madry",
    "art-trades-fixed",
    "art-fbf-fixed",
    "art-fbf",
    "art-adversarial",
    "art-awp-fixed",
)
"""Defences whose models stand for adversarially trained ones, the first choice first: attacks transfer from them."""

GENERAL_OPTIONS = ("learning_rate", *OPTIMIZATION_OPTIONS)
"""Options of every defence that trains a model, besides its own."""


def register(defence: Defence) -> Defence:
    """
    Add a defence to the suite: from then on its name works on the command line.

    :param defence: The defence.
    :return: The same.
    :raises ValueError: If the name is taken, or cannot be part of a list or a file's name.

    Example:
    >>> from art_sensreg.benchmark.defences import DEFENCES, register
    >>> register(DEFENCES["none"])
    Traceback (most recent call last):
    ValueError: `name` is 'none', which is taken; expected a new one.
    """
    check_new_name(defence.name, DEFENCES)
    DEFENCES[defence.name] = defence
    return defence


for _defence in (*OURS, *RIVALS, *INTERVALS, *FROM_ART):
    register(_defence)


def options_of(settings: SuiteSettings, name: str) -> Options:
    """All options of a defence in a run."""
    recipe = RECIPES.get(settings.dataset, FILE_RECIPE).penalties.get(name, {})
    threat = settings.threats[0]
    given = settings.options.get(name, {})
    options = resolve_options(name, given, {"eps": max(threat.eps), "norm": threat.norm, **recipe})
    optimization, rate = optimization_of(settings, name)
    own = options.get("learning_rate")
    if optimization.optimizer == "sgd" and own is not None and "learning_rate" not in given:
        options["learning_rate"] = rate  # the default is Adam's
    return options


def resolve_options(name: str, given: Options, recipe: Options) -> Options:
    """
    Fill in a defence's options: the given value, else its default, else that of the data set's recipe. ValueError or
    TypeError if an option is unknown, out of range or has the wrong type.
    """
    defaults = DEFENCES[name].options
    general = general_options(name, given)
    for option in given:
        if option not in defaults and option not in general:
            allowed = [*defaults, *(GENERAL_OPTIONS if DEFENCES[name].trained else ())]
            known, hint = ", ".join(dict.fromkeys(allowed)) or "none", did_you_mean(option, allowed)
            raise ValueError(f"`--set` names the option {option!r} of {name}; expected one of: {known}{hint}")
    if "learning_rate" in general:
        check_number("learning_rate", general["learning_rate"], 0.0, exclusive=True)
    own = {option: value for option, value in given.items() if option in defaults}
    filled = {option: recipe.get(option) if value is None else value for option, value in defaults.items()}
    # None leaves an option to the data set, as where it is not given.
    chosen = {option: value for option, value in own.items() if value is not None or defaults[option] is not None}
    options = {**filled, **chosen}
    DEFENCES[name].check_options(options, own)
    return options


def general_options(name: str, given: Mapping[str, Any]) -> Options:
    """Those of some options of a defence that every defence has that trains a model, unless they are its own."""
    own = DEFENCES[name].options
    general = {option: value for option, value in given.items() if option in GENERAL_OPTIONS and option not in own}
    return general if DEFENCES[name].trained else {}


def optimization_of(settings: SuiteSettings, name: str) -> tuple[OptimizationSettings, float]:
    """How the weights of a defence are optimised in a run, and the peak of its learning rate."""
    given = general_options(name, settings.options.get(name, {}))
    optimization = settings.optimization.updated(given)
    rate = settings.learning_rate
    if (optimization.optimizer == "sgd") != (settings.optimization.optimizer == "sgd"):
        rate = RECIPES.get(settings.dataset, FILE_RECIPE).rate(optimization.optimizer)  # the run's is of another kind
    return optimization, given.get("learning_rate", rate)
