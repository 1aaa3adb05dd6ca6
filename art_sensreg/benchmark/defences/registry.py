"""The registry of defences by name, and their options."""

from __future__ import annotations

import re

from art_sensreg.benchmark.config.settings import FILE_RECIPE, RECIPES, SuiteSettings
from art_sensreg.benchmark.defences.from_art.defences import ARTS
from art_sensreg.benchmark.defences.ours import OURS
from art_sensreg.benchmark.defences.spec import Defence, Options
from art_sensreg.utils import check_count, check_number, shown
from art_sensreg.utils.checks import did_you_mean

__all__ = ["DEFENCES", "SMOKE_DEFENCES", "Defence", "Options", "options_of", "register", "resolve_options"]

DEFENCES: dict[str, Defence] = {}
# A part of files' names, of lists on the command line and of tables.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+_-]{0,63}")


def register(defence: Defence) -> Defence:
    """
    Add a defence to the suite: from then on its name works on the command line.

    :param defence: The defence.
    :return: The same.
    :raises ValueError: If the name is taken, or cannot stand in a list or a file's name.

    Example:
    >>> from art_sensreg.benchmark.defences.registry import DEFENCES, register
    >>> register(DEFENCES["none"])
    Traceback (most recent call last):
    ValueError: `name` is 'none', which is taken; expected a new one.
    """
    name = defence.name
    if name in DEFENCES:
        raise ValueError(f"`name` is {name!r}, which is taken; expected a new one.")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in ("all", "trainers"):
        raise ValueError(f"`name` is {shown(name)}; expected a word of at most 64 letters, digits, `+`, `-` and `_`.")
    DEFENCES[name] = defence
    return defence


for _defence in (*OURS, *ARTS):
    register(_defence)

# What runs by default in minutes; `--defences all` runs the others too.
SMOKE_DEFENCES = (
    *("none", "sr", "jr", "sr+jr", "sr+jr-cheap", "n-fgsm+sr+jr", "at+sr+jr", "fire"),
    *("art-adversarial", "art-madry", "art-trades-fixed", "art-fbf-fixed"),
    *("art-spatial-smoothing", "art-gaussian-augmentation", "quantise"),
)


def options_of(settings: SuiteSettings, name: str) -> Options:
    """
    All options of a defence in a run.

    :param settings: Settings of the run.
    :param name: Name of the defence.
    :return: The options.
    """
    recipe = RECIPES.get(settings.dataset, FILE_RECIPE).penalties.get(name, {})
    threat = settings.threats[0]
    given = settings.options.get(name, {})
    return resolve_options(name, given, {"eps": max(threat.eps), "norm": threat.norm, **recipe})


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
    >>> from art_sensreg.benchmark.defences.registry import resolve_options
    >>> resolve_options("art-madry", {"max_iter": 10}, {})
    {'max_iter': 10}
    """
    defaults = DEFENCES[name].options
    for option in given:
        if option not in defaults:
            known = ", ".join(defaults) or "none"
            hint = did_you_mean(option, defaults)
            raise ValueError(f"`--set` names the option {option!r} of {name}; expected one of: {known}{hint}")
    filled = {option: recipe.get(option) if value is None else value for option, value in defaults.items()}
    options = {**filled, **given}
    penalties, check = DEFENCES[name].penalties, DEFENCES[name].check
    if check is not None:
        check(options)
    if penalties is not None:
        penalties(options)  # the penalties check their own options
        return options
    for option, value in given.items():
        if isinstance(defaults[option], int):
            check_count(option, value)
        elif not isinstance(value, str):
            check_number(option, value, minimum=0.0)
        elif option != "norm":
            raise TypeError(f"`{option}` is {value!r}; expected a number.")
    return options
