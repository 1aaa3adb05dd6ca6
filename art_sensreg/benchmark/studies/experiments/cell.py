"""A row of an experiment with one seed: its settings, its store, and its trained model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

from art_sensreg.benchmark.config.settings import FILE_RECIPE, RECIPES, Recipe, SuiteSettings
from art_sensreg.benchmark.defences.registry import DEFENCES, options_of, register, resolve_options
from art_sensreg.benchmark.engine.audit_run import load_target
from art_sensreg.benchmark.engine.context import SuiteContext
from art_sensreg.benchmark.engine.plan import SuitePlan, plan_suite
from art_sensreg.benchmark.engine.suite import use_threads_of
from art_sensreg.benchmark.engine.target import Target
from art_sensreg.benchmark.results.records import RunRecord
from art_sensreg.benchmark.studies.experiments.declaration import Experiment, Row
from art_sensreg.benchmark.studies.experiments.folder import ExperimentFolder
from art_sensreg.utils.checks import did_you_mean


class MissingWeights(ValueError):
    """A model has been trained, but its weights are not in the folder: those of some experiments are not committed."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """
    A row and seed.

    :param row: The row.
    :param seed: The training seed.
    :param suite: Its settings, data and store, as the stages of the suite take them.
    :param folder: Where the experiment is kept.
    """

    row: Row
    seed: int
    suite: SuiteContext
    folder: ExperimentFolder

    @property
    def name(self) -> str:
        """The row's name, which is also that of its defence in the suite."""
        return self.row.name

    @property
    def record(self) -> RunRecord | None:
        """What is stored of it."""
        return self.suite.store.results.run(self.name, self.seed)

    @property
    def trained(self) -> bool:
        """Whether there is a trained model."""
        return self.record is not None and self.record.trained

    @property
    def has_weights(self) -> bool:
        """Whether the weights of its model are in the folder, packed or not."""
        self.folder.unpack(self.name, self.seed)
        return self.suite.store.checkpoint(self.name, self.seed).exists()

    @cached_property
    def target(self) -> Target:
        """
        The trained model, as it is attacked; MissingWeights if they are not in the folder, OSError or ValueError if
        they cannot be read.
        """
        file = self.suite.store.checkpoint(self.name, self.seed)
        if not self.has_weights:
            raise MissingWeights(f"{file} is not there")
        return load_target(self.suite.settings, self.suite.dataset, self.seed, file, self.name)


@dataclass(frozen=True, kw_only=True)
class Unit:
    """
    A kind of work on a row and seed, done piece by piece.

    :param kind: One of `KINDS`.
    :param row: The row.
    :param seed: The seed.
    :param attack: Name of the attack, if it is one.
    :param threat: Its norm and size.
    """

    kind: str
    row: Row
    seed: int
    attack: str = ""
    threat: tuple[str, float] = ("linf", 0.0)

    def __str__(self) -> str:
        what = f"{self.attack} {self.threat[0]} {self.threat[1]:.4g}" if self.attack else self.kind
        return f"{self.row.name} seed {self.seed}: {what}"


class Laboratory:
    """
    What all cells of an experiment share: the plan, the data, and the folder.

    :param experiment: The experiment.
    :param folder: Its folder.
    :param left_out: A line for each row that this version cannot make.
    :raises ValueError: If no row can be made, or something of the request does not fit.
    """

    def __init__(self, experiment: Experiment, folder: ExperimentFolder, data_dir: str | None = None) -> None:
        self.experiment, self.folder = experiment, folder
        request = replace(experiment.request, data_dir=data_dir or experiment.request.data_dir)
        self.left_out: list[str] = []
        rows = [row for row in experiment.rows if self._possible(row)]
        if not rows:
            raise ValueError(f"no row of {experiment.name} can be made: {'; '.join(self.left_out)}")
        self.rows = tuple(rows)
        names = tuple(row.name for row in rows)
        attacks = ("autoattack", *(["autoattack-rand"] if any(map(is_random, names)) else []), *experiment.aimed)
        self.plan: SuitePlan = plan_suite(replace(request, defences=names, attacks=attacks, seeds=experiment.seeds))
        use_threads_of(self.plan)

    @property
    def recipe(self) -> Recipe:
        """The defaults of the data set."""
        return RECIPES.get(self.experiment.request.dataset, FILE_RECIPE)

    def _possible(self, row: Row) -> bool:
        """Whether a row can be made here; its variant of a defence is registered under its name."""
        try:
            if row.trains not in DEFENCES:
                hint = did_you_mean(row.trains, DEFENCES)
                raise ValueError(f"there is no defence {row.trains!r} in this version{hint}")
            known = {entry.name for entry in fields(SuiteSettings)}
            unknown = [name for name in row.settings if name not in known]
            if unknown:
                raise ValueError(f"the suite of this version has no setting `{unknown[0]}`")
            recipe = self.recipe
            _register(row, recipe.penalties.get(row.trains, {}))
            norm = self.experiment.request.norms[0]
            sizes = {"eps": recipe.eps[norm][-1], "norm": norm}
            resolve_options(row.name, dict(row.options), {**sizes, **recipe.penalties.get(row.name, {})})
        except (ValueError, TypeError) as error:
            self.left_out.append(f"{row.name}: {error}")
            return False
        return True

    def settings(self, row: Row) -> SuiteSettings:
        """The settings of a row."""
        request = self.experiment.request
        filled = self.recipe.options(row.trains, row.options, request.optimization, request.learning_rate)
        chosen: dict[str, Any] = {"defences": (row.name,), "seeds": row.seeds, **row.settings}
        chosen["options"] = {row.name: filled} if filled else {}
        chosen["penalties"] = {row.name: self.recipe.left_alone(row.trains, filled)}
        return replace(self.plan.settings, **chosen)

    def cell(self, row: Row, seed: int) -> Cell:
        """A row and seed, as it is stored now; ValueError if it was made with other settings."""
        settings = self.settings(row)
        store = self.folder.store(row.name, seed, settings)
        suite = SuiteContext(settings=settings, dataset=self.plan.dataset, store=store)
        return Cell(row=row, seed=seed, suite=suite, folder=self.folder)

    def others(self, cell: Cell) -> dict[str, Target | None]:
        """
        The trained models of a seed, by the names that the suite's audit and transfer attacks know them by; a row with
        fewer seeds stands in with its last one. Of several rows that train the same defence it is this cell's, or else
        the first.
        """
        found: dict[str, Target | None] = {cell.name: cell.target}
        for row in self.rows:
            other = self.cell(row, min(cell.seed, row.seeds - 1))
            if row.name != cell.name and other.trained and other.has_weights and not is_random(row.name):
                found.setdefault(row.trains, other.target)
        return found

    def options(self, row: Row) -> dict[str, Any]:
        """All options of a row."""
        return options_of(self.settings(row), row.name)


def is_random(name: str) -> bool:
    """Whether a defence's predictions are random: its gradients are averaged over draws."""
    defence = DEFENCES[name]
    preprocessing = defence.preprocessing
    return defence.random is not None or (preprocessing is not None and preprocessing.samples is not None)


# Of the rows of this process: another experiment may have one of the same name, with the recipe of other data.
_VARIANTS: set[str] = set()


def _register(row: Row, recipe: Mapping[str, Any]) -> None:
    """A variant of a defence under the row's name, with the data set's recipe for the defence that it is made of."""
    if row.name in DEFENCES and (row.name not in _VARIANTS or row.trains == row.name):
        return
    base = DEFENCES[row.trains]
    DEFENCES.pop(row.name, None)
    options = {name: recipe.get(name) if value is None else value for name, value in base.options.items()}
    register(replace(base, name=row.name, options=options))
    _VARIANTS.add(row.name)
