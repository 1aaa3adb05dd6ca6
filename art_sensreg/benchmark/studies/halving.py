"""Successive halving on held-out training images: the same number of trials and epochs for each defence."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from art_sensreg.benchmark.config.request import SuiteRequest
from art_sensreg.benchmark.config.settings import FILE_RECIPE, RECIPES
from art_sensreg.benchmark.config.threat_models import pair_threats
from art_sensreg.benchmark.defences.registry import DEFENCES, resolve_options
from art_sensreg.benchmark.defences.search_spaces import SPACES, draw_options
from art_sensreg.benchmark.engine.plan import plan_training
from art_sensreg.benchmark.results.writing import json_text, plain, write_text
from art_sensreg.benchmark.studies.experiments import Choice, Experiment, Row, run_experiment
from art_sensreg.benchmark.studies.experiments.folder import ExperimentFolder
from art_sensreg.utils import check_choice, check_count
from art_sensreg.utils.tables import Table

RULE = """Protocol (successive halving, Jamieson and Talwalkar 2016, arXiv 1502.07943): every defence gets as many
trials as any other, drawn from its space around its defaults; the first trial is the defaults themselves. All are
trained for a fraction of the epochs on training images without the held-out ones, and scored on these: the mean over
the sizes of the share of images that AutoAttack leaves. The better half is trained anew for twice the epochs, and so
on, until the last ones have all epochs. Trials whose clean accuracy is more than a point below the best of their round
rank after all others. The best trial of the last round is chosen."""
# In shares: a point, and its rounding.
_CLEAN_TOLERANCE = 0.0101


@dataclass(frozen=True, kw_only=True)
class Search:
    """
    The search, the same for every defence.

    :param request: Data set, threats and training of the last round, as for the suite; its test images are held-out
        training images.
    :param trials: Trials of each defence.
    :param rounds: Rounds; in each the better half is trained for twice as many epochs.
    :param points: Held-out images that are attacked.
    :param seed: Seed of the draws.
    """

    request: SuiteRequest
    trials: int = 8
    rounds: int = 3
    points: int = 300
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("trials", "rounds", "points"):
            check_count(name, getattr(self, name))

    @property
    def epochs(self) -> tuple[int, ...]:
        """Epochs of each round; at least one."""
        whole = self.request.epochs or RECIPES.get(self.request.dataset, FILE_RECIPE).epochs
        return tuple(max(1, whole // 2 ** (self.rounds - 1 - number)) for number in range(self.rounds))

    @property
    def sizes(self) -> list[tuple[str, float]]:
        """Norms and sizes of the attacks."""
        recipe = RECIPES.get(self.request.dataset, FILE_RECIPE)
        threats = pair_threats(self.request.norms, self.request.eps, recipe.eps)
        return [(threat.norm, eps) for threat in threats for eps in threat.eps]

    @cached_property
    def _checksums(self) -> dict[str, int | None]:
        """Those of the images and of one's own network: by its name a file that has changed is the same."""
        request = replace(self.request, validation=True, defences=("none",), options={})
        settings = plan_training(request).settings
        return {"data_crc32": settings.data_crc32, "network_crc32": settings.network_crc32}

    def protocol(self) -> dict[str, Any]:
        """What trials must agree on to be ranked together, as JSON has it."""
        values = asdict(self)
        request = {name: value for name, value in values.pop("request").items() if name not in _OF_THE_CALL}
        read: dict[str, Any] = json.loads(json.dumps(plain({**request, **values, **self._checksums})))
        return read


_OF_THE_CALL = ("data_dir", "defences", "options", "out", "resume", "jobs", "verbose", "seeds")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """
    A trial in a round.

    :param defence: The defence.
    :param number: Its number; 0 has the defaults.
    :param round: The round, from 0.
    :param epochs: Epochs of its training.
    :param options: What was drawn.
    :param clean: Clean accuracy on the held-out images; None: it could not be trained.
    :param robust: Share of the attacked images that are left, by size.
    :param seconds: Time of training.
    :param reason: Why it could not be trained.
    :param crashed: Whether it crashed, rather than did not apply: the next call tries it again.
    """

    defence: str
    number: int
    round: int
    epochs: int
    options: Mapping[str, Any]
    clean: float | None = None
    robust: Mapping[str, float] | None = None
    seconds: float = 0.0
    reason: str = ""
    crashed: bool = False

    @property
    def score(self) -> float:
        """The mean over the sizes; -1 if it could not be trained."""
        return fmean(self.robust.values()) if self.robust else -1.0


def draws(search: Search, defence: str) -> list[dict[str, Any]]:
    """
    The options of the trials of a defence: they depend on the seed, its name and their number alone.

    :raises ValueError: If the defence is unknown, or no space is declared for it.
    """
    check_choice("defence", defence, tuple(DEFENCES))
    check_choice("defence", defence, tuple(SPACES))
    defaults, make = _defaults(search, defence), DEFENCES[defence].adversary
    if defaults.get("eps_step", 0.0) is None and make is not None:
        defaults["eps_step"] = make(defaults).step
    found: list[dict[str, Any]] = [{}]
    for number in range(1, search.trials):
        rng = np.random.default_rng(zlib.crc32(repr((search.seed, defence, number)).encode()))
        found.append(draw_options(SPACES[defence], defaults, rng))
    return found


def _defaults(search: Search, defence: str) -> dict[str, Any]:
    recipe = RECIPES.get(search.request.dataset, FILE_RECIPE)
    norm = search.request.norms[0]
    eps = max(search.request.eps[0]) if search.request.eps else recipe.eps[norm][-1]
    return resolve_options(defence, {}, {"eps": eps, "norm": norm, **recipe.penalties.get(defence, {})})


def _fitting(options: dict[str, Any], defaults: Mapping[str, Any], epochs: int) -> dict[str, Any]:
    """The options of a trial in a round: free adversarial training replays no batch more often than it has epochs."""
    replays = options.get("replays", defaults.get("replays", 0))
    return {**options, "replays": epochs} if replays > epochs else options


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """The trials of a round, the best first: by the rule."""
    best = max((trial.clean or 0.0 for trial in trials), default=0.0)
    return sorted(trials, key=lambda trial: ((trial.clean or 0.0) < best - _CLEAN_TOLERANCE, -trial.score))


class Trials:
    """
    All trials in a file, which is written after every round or part of one.

    :param path: The file.
    :param protocol: What they must agree on.
    :raises ValueError: If the file holds trials of another protocol.
    """

    def __init__(self, path: Path, protocol: Mapping[str, Any]) -> None:
        self.path, self.protocol = path, protocol
        self.found: list[Trial] = []
        if path.exists():
            stored = json.loads(path.read_text())
            changed = [
                name
                for name in {**protocol, **stored["protocol"]}
                if protocol.get(name) != stored["protocol"].get(name)
            ]
            if changed:
                raise ValueError(
                    f"{path} has trials of another search: `{changed[0]}` was {stored['protocol'].get(changed[0])!r} "
                    f"and is now {protocol.get(changed[0])!r}"
                )
            self.found = [Trial(**trial) for trial in stored["trials"]]

    def of(self, defence: str, number: int) -> list[Trial]:
        """The trials of a round that are done."""
        return [trial for trial in self.found if (trial.defence, trial.round) == (defence, number)]

    def add(self, trials: Sequence[Trial]) -> None:
        """Add trials, in the place of those that they repeat, and write the file."""
        repeated = {(trial.defence, trial.round, trial.number) for trial in trials}
        kept = [trial for trial in self.found if (trial.defence, trial.round, trial.number) not in repeated]
        self.found = [*kept, *trials]
        text = json_text({"protocol": self.protocol, "trials": [asdict(trial) for trial in self.found]})
        write_text(self.path, text)


def search_settings(
    search: Search, defence: str, out: Path, minutes: float | None = None, say: Callable[[str], object] = print
) -> Trial | None:
    """
    Search the settings of a defence, from where `trials.json` stands.

    :param search: The search.
    :param defence: The defence.
    :param out: Folder of `trials.json`.
    :param minutes: Time after which it stops; None: when it is done.
    :param say: Told what is done.
    :return: The chosen trial, or None if the time was over. Its `clean` is None if no trial could be trained.
    :raises ValueError: If something does not fit, or the file holds another search.
    """
    options, defaults = draws(search, defence), _defaults(search, defence)
    trials = Trials(out / "trials.json", search.protocol())
    alive = list(range(search.trials))
    for number, epochs in enumerate(search.epochs):
        asked = [
            Trial(
                defence=defence, number=one, round=number, epochs=epochs,
                options=_fitting(options[one], defaults, epochs),
            )
            for one in alive
        ]  # fmt: skip
        done = {trial.number: trial for trial in trials.of(defence, number)}
        _check_spaces(trials.path, asked, done)
        wanted = [trial for trial in asked if trial.number not in done or done[trial.number].crashed]
        new = _measured(search, wanted, out / "work", minutes, say) if wanted else []
        if new:
            trials.add(new)
        over = {trial.number for trial in wanted} - {trial.number for trial in new}  # crashed before, and no time now
        found = ranked([trial for trial in trials.of(defence, number) if trial.number in set(alive) - over])
        if len(found) < len(alive):
            return None
        alive = [trial.number for trial in found[: math.ceil(len(found) / 2)]]
    return found[0]


def _check_spaces(path: Path, asked: Sequence[Trial], done: Mapping[int, Trial]) -> None:
    """ValueError if a trial that is done was drawn from a space that its defence had in another version."""
    for trial in asked:
        before = done.get(trial.number, trial)
        if before.options != trial.options:
            raise ValueError(
                f"{path} has trials of another search space: trial {trial.number} of {trial.defence} had the options "
                f"{before.options}, and has {trial.options} now; expected another folder."
            )


def _measured(
    search: Search, trials: Sequence[Trial], out: Path, minutes: float | None, say: Callable[[str], object]
) -> list[Trial]:
    """Train and attack trials; those that are finished in time."""
    rows = {_row_name(trial): trial for trial in trials}
    experiment = Experiment(
        name="search",
        title="Search",
        request=replace(search.request, validation=True, defences=None, options={}, seeds=1),
        rows=tuple(
            Row(name=name, defence=trial.defence, options=trial.options, settings={"epochs": trial.epochs},
                points=search.points)
            for name, trial in rows.items()
        ),
        costed=False,
    )  # fmt: skip
    done = run_experiment(experiment, Choice(kinds=("train", "attack"), minutes=minutes), out, say=say)
    folder, found = ExperimentFolder(out), []
    for name, trial in rows.items():
        run = folder.run(name, 0)
        if run is None:
            continue
        enough = 1 if done.rest_done else search.points  # there may be fewer images
        if run.trained and {one.threat for one in run.attacks if one.n >= enough} >= set(search.sizes):
            robust = {f"{one.norm} {one.eps:.4g}": one.robust_accuracy or 0.0 for one in run.attacks}
            seconds = run.train_seconds or 0.0
            found.append(replace(trial, clean=run.clean_accuracy, robust=robust, seconds=seconds))
        elif run.status != "ok":
            crashed = run.status == "error"
            if crashed and not done.rest_done and not any(line.startswith(f"{name} ") for line in done.failures):
                continue  # it crashed in an earlier call, and the time of this one was over before it
            found.append(replace(trial, reason=run.reason or "", crashed=crashed))  # it has no score
    return found


def _row_name(trial: Trial) -> str:
    return f"{trial.defence}_t{trial.number}r{trial.round}"


def trials_table(trials: Sequence[Trial]) -> Table:
    """All trials of a defence, the last rounds and the best first."""
    names = list(dict.fromkeys(name for trial in trials for name in trial.options))
    sizes = list(dict.fromkeys(size for trial in trials for size in trial.robust or {}))
    rows = []
    for number in sorted({trial.round for trial in trials}, reverse=True):
        for trial in ranked([one for one in trials if one.round == number]):
            chosen = [str(trial.options.get(name, "default")) for name in names]
            shares = [
                f"{100 * trial.robust[size]:.1f}" if trial.robust and size in trial.robust else "-" for size in sizes
            ]
            clean = "-" if trial.clean is None else f"{100 * trial.clean:.2f}"
            rows.append([str(trial.number), str(trial.epochs), *chosen, clean, *shares, f"{100 * trial.score:.1f}"])
    return Table(["trial", "epochs", *names, "clean %", *(f"{size}: %" for size in sizes), "mean"], rows)
