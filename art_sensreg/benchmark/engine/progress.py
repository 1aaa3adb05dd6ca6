"""Progress of a run of the suite: what runs, how many cells are left, and how long they may take."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

from tqdm.auto import tqdm

from art_sensreg.benchmark.config.settings import SuiteSettings
from art_sensreg.benchmark.defences.registry import DEFENCES
from art_sensreg.benchmark.results.records import Results

TRAINING, EVALUATIONS, AUDIT, FINISHED = "training", "other evaluations", "audit", "finished"
Run = tuple[str, int]  # a defence and a seed
Cell = tuple[Run, str]  # a stage of a run: training, the name of an attack, other evaluations, audit

# Rough seconds on the digits, before anything is measured: of a plain training, of a step of other defences in plain
# ones, and of attacks on two sizes by 150 images at `quick`. The run's own times replace them as soon as it has some.
_PLAIN, _PLAIN_IMAGES = 1.0, 12 * 1347
_STEPS = {"none": 1.0, "sr": 2.2, "jr": 2.5, "sr+jr": 2.0, "sr+jr-cheap": 1.7, "art-fbf": 2.0, "art-fbf-fixed": 2.0}
_OTHER_STEPS = 8.0
_ATTACK_SECONDS = {"fgm": 0.05, "pgd": 1.0, "apgd-ce": 1.0, "apgd-dlr": 1.5, "autoattack": 7.0, "carlini-l2": 5.0}
_OTHER_ATTACK, _ATTACK_IMAGES = 2.0, 150 * 2
_OF_BUDGET = {"smoke": 0.4, "quick": 1.0, "full": 10.0}
_AUDIT_SECONDS = {"smoke": 8.0, "quick": 40.0, "full": 40.0}
_EVALUATION_SECONDS = 0.2


def cells_of(settings: SuiteSettings, train_images: int, audit: bool, stored: Results) -> dict[Cell, float]:
    """The cells that a run has still to fill, with a first guess of the seconds of each."""
    passes = settings.epochs * train_images / _PLAIN_IMAGES
    sizes = sum(len(threat.eps) for threat in settings.threats)
    attacked = _OF_BUDGET[settings.budget] * settings.test_size * sizes / _ATTACK_IMAGES
    cells: dict[Cell, float] = {}
    for seed in range(settings.seeds):
        for name in settings.defences:
            steps = _STEPS.get(name, _OTHER_STEPS if DEFENCES[name].trained else 0.1)
            stages = {TRAINING: _PLAIN * passes * steps}
            stages |= {attack: attacked * _ATTACK_SECONDS.get(attack, _OTHER_ATTACK) for attack in settings.attacks}
            stages |= {EVALUATIONS: _EVALUATION_SECONDS, **({AUDIT: _AUDIT_SECONDS[settings.budget]} if audit else {})}
            done = _done(stored, (name, seed))
            cells |= {((name, seed), stage): guess for stage, guess in stages.items() if stage not in done}
    return cells


def _done(stored: Results, run: Run) -> set[str]:
    """The stages of a run that need not be repeated."""
    found = stored.run(*run)
    if found is None or not found.trained:
        return set()
    audited = {AUDIT} if found.audit is not None else set()
    return {TRAINING, *audited, *(attack.attack for attack in found.attacks if attack.mask is not None)}


@dataclass
class _Mean:
    """A mean that grows."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.total, self.count = self.total + value, self.count + 1

    @property
    def value(self) -> float:
        return self.total / self.count


def _kind(cell: Cell) -> Hashable:
    """Cells that take about as long as one another: the same stage, and of trainings, those of the same defence."""
    (name, _), stage = cell
    return (stage, name) if stage == TRAINING else stage


class Progress:
    """
    A progress bar over the cells of a run, with an estimate of the time left.

    :param cells: The cells, with a first guess of the seconds of each.
    :param workers: Processes that attack side by side.
    :param silent: Whether nothing is shown.
    :param clock: Seconds that only grow.
    """

    def __init__(
        self,
        cells: Mapping[Cell, float],
        workers: int = 1,
        silent: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.left = dict(cells)
        self._workers, self._clock = max(workers, 1), clock
        self._current: dict[Run, tuple[str, float]] = {}  # what each run is at, and since when
        self._measured: dict[Hashable, _Mean] = defaultdict(_Mean)  # of each stage; of training, for each defence
        # Of training and of all else: how long cells took, how long they were guessed to take, and all guesses.
        self._took, self._guessed, self._total = ({True: 0.0, False: 0.0} for _ in range(3))
        for (_, stage), guess in cells.items():
            self._total[stage == TRAINING] += guess
        form = "{desc} |{bar:20}| {n_fmt} of {total_fmt} cells{postfix} [{elapsed}]"
        self._bar = tqdm(total=len(cells), disable=silent, bar_format=form)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def begin(self, run: Run, stage: str) -> None:
        """A run is at a stage from now on."""
        self.end(run)
        self._current[run] = (stage, self._clock())
        self._bar.set_description_str(f"{run[0]}, seed {run[1]}: {stage}", refresh=False)
        self._show(0)

    def end(self, run: Run) -> None:
        """The stage that a run is at is finished."""
        if run not in self._current:
            return
        stage, since = self._current.pop(run)
        guess = self.left.pop((run, stage), None)
        if guess is not None:
            seconds, training = self._clock() - since, stage == TRAINING
            self._measured[_kind((run, stage))].add(seconds)
            self._took[training] += seconds
            self._guessed[training] += guess
            self._show(1)

    def drop(self, run: Run) -> None:
        """A run is finished: what is left of it will not happen."""
        self.end(run)
        lost = [cell for cell in self.left if cell[0] == run]
        for cell in lost:
            del self.left[cell]
        self._show(len(lost))

    def seconds_left(self) -> float:
        """
        Estimated seconds until all is done. A cell takes what this stage took for other defences, else its guess, as
        far as the guesses were wrong so far; a training its guess.
        """
        now, training = self._clock(), 0.0
        attacks: dict[Run, float] = {}
        errors = {kind: self._error(kind) for kind in (True, False)}
        for (run, stage), guess in self.left.items():
            current = self._current.get(run)
            passed = now - current[1] if current is not None and current[0] == stage else 0.0
            measured = self._measured.get(_kind((run, stage)))
            seconds = guess * errors[stage == TRAINING] if measured is None else measured.value
            seconds = max(seconds - passed, 0.0)
            if stage == TRAINING:
                training += seconds
            else:
                attacks[run] = attacks.get(run, 0.0) + seconds
        side_by_side = min(self._workers, max(len(attacks), 1))
        # Of several seeds each is finished before the next begins.
        slowest = max(attacks.values(), default=0.0)
        return training + max(sum(attacks.values()) / side_by_side, slowest)

    def _error(self, training: bool) -> float:
        """
        How many times as long as guessed cells take: as those of the same kind did, once a few percent of them are
        finished, until then as the others did.
        """
        others = self._took[not training] / self._guessed[not training] if self._guessed[not training] else 1.0
        few = 0.03 * self._total[training]
        took, guessed = self._took[training] + few * others, self._guessed[training] + few
        return took / guessed if guessed else 1.0

    def _show(self, finished: int) -> None:
        if self._bar.disable:
            return
        left = self.seconds_left()
        until = time.strftime("%H:%M", time.localtime(time.time() + left))
        self._bar.set_postfix_str(f"{len(self.left)} left, {in_words(left)} (until {until})", refresh=False)
        self._bar.update(finished)
        self._bar.refresh()


def in_words(seconds: float) -> str:
    """
    A time as a rough estimate.

    Example:
    >>> from art_sensreg.benchmark.engine.progress import in_words
    >>> in_words(42), in_words(200), in_words(9000)
    ('about 40 s', 'about 3 min', 'about 2.5 h')
    """
    if seconds < 90:
        return f"about {max(round(seconds / 10) * 10, 5)} s"
    return f"about {round(seconds / 60)} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"
