"""From a request to a frozen plan: what a run will do is decided once, before anything is trained."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from art_sensreg.attacks.base.sizes import check_size
from art_sensreg.benchmark.attacks import ATTACKS, default_attacks, ordered
from art_sensreg.benchmark.config.data_sources import open_dataset
from art_sensreg.benchmark.config.networks import Network, check_network_name, is_own
from art_sensreg.benchmark.config.request import SuiteRequest
from art_sensreg.benchmark.config.settings import BUDGETS, FILE_RECIPE, RECIPES, Recipe, SuiteSettings
from art_sensreg.benchmark.config.threat_models import NORMS, Threats, pair_threats
from art_sensreg.benchmark.defences.registry import DEFENCES, SMOKE_DEFENCES, general_options, resolve_options
from art_sensreg.datasets import Dataset
from art_sensreg.utils import check_choice, check_count
from art_sensreg.utils.text import error_text

_CLASSES = "needs {} classes"
_PACKAGE = "needs {}: pip install 'art_sensreg[bench]'"


@dataclass(frozen=True, kw_only=True)
class SuitePlan:
    """
    A run whose every choice is made.

    :param settings: The settings, as they are stored.
    :param dataset: The data, limited to its sizes.
    :param out: Output folder.
    :param resume: Whether to keep what the folder has of this run.
    :param audit: Whether to audit every trained model.
    :param interpret: Whether to score the explanations of every trained model.
    :param workers: Processes that attack models side by side.
    :param verbose: Whether to show a progress bar.
    :param left_out: A line for each attack that was wanted and is not defined for these classes.
    """

    settings: SuiteSettings
    dataset: Dataset
    out: Path
    resume: bool = False
    audit: bool = False
    interpret: bool = False
    workers: int = 1
    verbose: bool = True
    left_out: tuple[str, ...] = ()

    @property
    def recipe(self) -> Recipe:
        """The defaults of the data set."""
        return RECIPES.get(self.settings.dataset, FILE_RECIPE)


def plan_suite(request: SuiteRequest) -> SuitePlan:
    """
    Decide what a run does, and check what was asked for. Nothing is written.

    :param request: What is asked for.
    :return: The plan.
    :raises ValueError: If something does not fit.
    :raises FileNotFoundError: If a data file is missing.
    """
    if request.interpret and find_spec("captum") is None:
        raise ValueError("`--interpret` needs captum: pip install 'art_sensreg[bench]'")
    return plan_training(request)


def plan_training(request: SuiteRequest) -> SuitePlan:
    """As :func:`plan_suite`, but without asking for the packages that only attacks and the report need."""
    _check_names(request)
    device = _device(request.device)
    recipe = RECIPES.get(request.dataset, FILE_RECIPE)
    budget = _budget(request)
    optimizations = [request.optimization]
    for defence, chosen in request.options.items():
        sizes = {"eps": recipe.eps[request.norms[0]][-1], "norm": request.norms[0]}
        _check_options(defence, chosen, {**sizes, **recipe.penalties.get(defence, {})})
        filled = recipe.options(defence, chosen, request.optimization, request.learning_rate)
        optimizations.append(request.optimization.updated(general_options(defence, filled)))
    _check_options_are_used(request)
    dataset = _dataset(request, recipe)
    for optimization in optimizations:
        optimization.check_images(dataset.input_shape)
    network = _network(request, recipe)
    dataset = replace(dataset, classes=network.checked_classes(dataset.x_train[:2], dataset.nb_classes))
    threats = pair_threats(request.norms, request.eps, recipe.eps)
    _check_sizes(request, threats, dataset)
    return SuitePlan(
        settings=_settings(request, recipe, dataset, network, threats, device),
        dataset=dataset,
        out=Path(request.out) if request.out else Path("results") / f"{dataset.name}-{time.strftime('%Y%m%d-%H%M%S')}",
        resume=request.resume,
        audit=request.audit,
        interpret=request.interpret,
        workers=_workers(request.jobs, device, recipe),
        verbose=request.verbose,
        left_out=_left_out(request, budget, dataset.nb_classes),
    )


def _defaults(request: SuiteRequest) -> tuple[str, ...]:
    return SMOKE_DEFENCES if _budget(request) == "smoke" else tuple(DEFENCES)


def _budget(request: SuiteRequest) -> str:
    return request.budget or ("smoke" if request.dataset == "digits" else "quick")


def _dataset(request: SuiteRequest, recipe: Recipe) -> Dataset:
    dataset = open_dataset(request.dataset, request.data_dir or os.environ.get("ART_SENSREG_DATA"))
    if request.validation:
        dataset = dataset.with_validation_as_test()
    return dataset.limited(request.train_size, request.test_size or recipe.test_size[_budget(request)])


def _settings(
    request: SuiteRequest,
    recipe: Recipe,
    dataset: Dataset,
    network: Network,
    threats: Threats,
    device: str,
) -> SuiteSettings:
    """What the results of a run depend on."""
    budget, options = _budget(request), _options(request, recipe)
    defences = request.defences or _defaults(request)
    return SuiteSettings(
        dataset=request.dataset,
        defences=defences,
        attacks=_attacks(request, budget, dataset.nb_classes),
        threats=threats,
        model=network.name,
        activation=network.activation,
        norm_layer=network.norm_layer,
        weights=network.weights,
        network_crc32=network.crc32,
        budget=budget,
        seeds=request.seeds,
        epochs=request.epochs or recipe.epochs,
        batch_size=request.batch_size or recipe.batch_size,
        learning_rate=request.learning_rate or recipe.rate(request.optimization.optimizer),
        train_size=request.train_size,
        test_size=len(dataset.x_test),
        validation=request.validation,
        data_crc32=dataset.crc32,
        device=device,
        all_points=request.all_points,
        options=options,
        penalties={
            name: recipe.left_alone(name, options.get(name, {})) for name in defences if name in recipe.penalties
        },
        optimization=request.optimization,
    )


def _options(request: SuiteRequest, recipe: Recipe) -> dict[str, dict[str, Any]]:
    """
    The options that were given, by defence, and how the recipe optimises it. A learning rate of the run is that of each
    row with a rate of its own, too; of ART's FBF, whose rate is part of it, it is not.
    """
    options = {defence: dict(chosen) for defence, chosen in request.options.items()}
    for name in request.defences or _defaults(request):
        chosen = recipe.options(name, options.get(name, {}), request.optimization, request.learning_rate)
        if request.learning_rate is not None and DEFENCES[name].options.get("learning_rate") is not None:
            chosen.setdefault("learning_rate", request.learning_rate)
        if chosen:
            options[name] = chosen
    return options


def _network(request: SuiteRequest, recipe: Recipe) -> Network:
    name = request.model or recipe.model
    try:
        check_network_name(name)
    except ValueError as error:
        raise ValueError(f"`--model`: {error}") from error
    for option, value, default in (
        ("--activation", request.activation, "relu"),
        ("--norm-layer", request.norm_layer, "none"),
    ):
        if is_own(name) and value != default:
            raise ValueError(f"`{option}` is {value!r}, which {name} brings itself; expected it only with our models")
    weights = None if request.weights is None else str(request.weights)
    return Network(name=name, activation=request.activation, norm_layer=request.norm_layer, weights=weights)


def _check_names(request: SuiteRequest) -> None:
    """What the parser of a command line has checked already, and a caller in Python may have misspelt."""
    for entry, known in (("defences", DEFENCES), ("attacks", ATTACKS), ("norms", NORMS), ("options", DEFENCES)):
        for name in getattr(request, entry) or ():
            check_choice(entry, name, tuple(known))
    if request.resume and request.out is None:
        raise ValueError("`--resume` was given without `--out`; expected the folder of the run that is to go on")
    check_choice("budget", request.budget or "smoke", BUDGETS)
    check_choice("device", request.device, ("auto", "cpu", "cuda"))
    for entry in ("seeds", "epochs", "batch_size", "train_size", "test_size", "jobs"):
        if getattr(request, entry) is not None:
            check_count(entry, getattr(request, entry))


def _check_options_are_used(request: SuiteRequest) -> None:
    names = request.defences or _defaults(request)
    for name, chosen in request.options.items():
        if chosen and name not in names:
            option = f"{name}.{next(iter(chosen))}"
            raise ValueError(f"`--set {option}` is for a defence that is not in this run: {', '.join(names)}")


def _device(asked: str) -> str:
    device = asked if asked != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("`--device` is 'cuda', and torch sees no GPU here; expected auto or cpu")
    return device


def _check_options(defence: str, chosen: Mapping[str, Any], recipe: dict[str, Any]) -> None:
    try:
        resolve_options(defence, dict(chosen), recipe)
    except (ValueError, TypeError):
        raise
    except Exception as error:  # a defence of a plugin may check its options in any way
        raise ValueError(f"`--set` {defence}: {error_text(error)}") from error


def _check_sizes(request: SuiteRequest, threats: Threats, dataset: Dataset) -> None:
    for threat in threats:
        for eps in threat.eps:
            check_size("--eps", eps, threat.norm, dataset.input_shape)
    for defence, chosen in request.options.items():
        if isinstance(chosen.get("eps"), (int, float)):
            check_size(f"--set {defence}.eps", chosen["eps"], threats[0].norm, dataset.input_shape)


def _attacks(request: SuiteRequest, budget: str, classes: int) -> tuple[str, ...]:
    """The attacks in the order in which they run; undefined ones are left out, and refused when asked for by name."""
    unfit = {}
    for name, attack in ATTACKS.items():
        if attack.package and find_spec(attack.package) is None:
            unfit[name] = _PACKAGE.format(attack.package)
        elif attack.min_classes > classes:
            unfit[name] = f"{_CLASSES.format(attack.min_classes)}; the data set has {classes}"
        elif not set(request.norms) & set(attack.norms):
            unfit[name] = f"is not defined in {', '.join(request.norms)}; only in {', '.join(attack.norms)}"
    given = request.attacks
    if given is not None and given != tuple(ATTACKS):
        for name in given:
            if name in unfit:
                raise ValueError(f"`--attacks` names {name}, which {unfit[name]}")
    return tuple(ordered(name for name in given or default_attacks(budget) if name not in unfit))


def _left_out(request: SuiteRequest, budget: str, classes: int) -> tuple[str, ...]:
    wanted = [ATTACKS[name] for name in request.attacks or default_attacks(budget)]
    few = [attack for attack in wanted if attack.min_classes > classes]
    absent = [attack for attack in wanted if attack.package and find_spec(attack.package) is None]
    return (
        *(f"{attack.name}: {_CLASSES.format(attack.min_classes)}, left out" for attack in few),
        *(f"{attack.name}: {_PACKAGE.format(attack.package)}, left out" for attack in absent),
    )


def _workers(jobs: int | None, device: str, recipe: Recipe) -> int:
    """How many processes attack side by side: by default several where each is to have one thread."""
    if device != "cpu":
        return 1
    small = recipe.threads == 1 and "OMP_NUM_THREADS" not in os.environ
    return jobs or (len(os.sched_getaffinity(0)) if small and hasattr(os, "sched_getaffinity") else 1)
