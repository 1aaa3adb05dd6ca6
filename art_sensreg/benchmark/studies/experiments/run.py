"""Run an experiment in pieces: unit after unit until all is done or the time is over."""

from __future__ import annotations

import math
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from art_sensreg.benchmark.defences.registry import DEFENCES
from art_sensreg.benchmark.engine.runtime import attempt
from art_sensreg.benchmark.studies.experiments.cell import Laboratory, Unit
from art_sensreg.benchmark.studies.experiments.declaration import Experiment
from art_sensreg.benchmark.studies.experiments.equal_cost import budgeted
from art_sensreg.benchmark.studies.experiments.folder import ExperimentFolder
from art_sensreg.benchmark.studies.experiments.pages import write_pages
from art_sensreg.benchmark.studies.experiments.units import KINDS, is_pending, units_of, work_on
from art_sensreg.utils import check_choice
from art_sensreg.utils.text import error_text


class TimeUp(KeyboardInterrupt):
    """The time of this piece is over."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """
    The part of an experiment that a call does.

    :param rows: Names of the rows; None: all.
    :param seeds: Training seeds; None: all.
    :param kinds: Kinds of units; None: all.
    :param sizes: Norms and sizes of attacks; None: all.
    :param points: Most images that AutoAttack attacks of a row, seed and size; None: as many as the row declares.
    :param minutes: Time after which it stops at the end of a unit; None: when all is done.
    """

    rows: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None
    kinds: tuple[str, ...] | None = None
    sizes: tuple[tuple[str, float], ...] | None = None
    points: int | None = None
    minutes: float | None = None

    def check(self, laboratory: Laboratory) -> None:
        """ValueError if something of it is not there, with the reason where a row was left out."""
        for name in self.rows or ():
            reason = next((line for line in laboratory.left_out if line.startswith(f"{name}: ")), None)
            if reason is not None:
                raise ValueError(f"`--only` names {reason}")
            check_choice("--only", name, tuple(row.name for row in laboratory.rows))
        for kind in self.kinds or ():
            check_choice("--kinds", kind, tuple(KINDS))
        for size in self.sizes or ():
            known = {unit.threat for unit in units_of(laboratory) if unit.attack}
            if not any(_same_size(size, one) for one in known):
                there = ", ".join(f"{norm}:{eps:.4g}" for norm, eps in sorted(known, reverse=True))
                raise ValueError(f"`--sizes` names {size[0]}:{size[1]:.4g}; the sizes of this experiment: {there}")
        for seed in self.seeds or ():
            most = max(row.seeds for row in laboratory.rows if self.rows is None or row.name in self.rows)
            if seed >= most:
                raise ValueError(f"`--seeds` names {seed}; the seeds of these rows: {', '.join(map(str, range(most)))}")
        if not self.units(laboratory):
            chosen = {"--only": self.rows, "--kinds": self.kinds, "--sizes": self.sizes}
            named = ", ".join(f"`{name}`" for name, value in chosen.items() if value)
            raise ValueError(f"{named}: this experiment has nothing of that kind for these rows")

    def units(self, laboratory: Laboratory) -> list[Unit]:
        """The units of its part, each for as many images as it allows."""
        chosen = [unit for unit in units_of(laboratory) if unit in self]
        if self.points is None:
            return chosen
        limited = [replace(unit.row, points=min(unit.row.points, self.points)) for unit in chosen]
        return [replace(unit, row=row) for unit, row in zip(chosen, limited, strict=True)]

    def __contains__(self, unit: Unit) -> bool:
        # A row at a budget is chosen by the name that it has without one.
        names = {unit.row.name, unit.row.of if re.search(r"_b\d+$", unit.row.name) else None}
        chosen = ((self.rows, names), (self.seeds, {unit.seed}), (self.kinds, {unit.kind}))
        if self.sizes is not None and unit.attack and not any(_same_size(unit.threat, size) for size in self.sizes):
            return False
        return all(wanted is None or not found.isdisjoint(wanted) for wanted, found in chosen)


def _same_size(one: tuple[str, float], other: tuple[str, float]) -> bool:
    return one[0] == other[0] and math.isclose(one[1], other[1], rel_tol=1e-3)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a call did: the failures, whether all else of its part is done, and what was written."""

    failures: tuple[str, ...]
    rest_done: bool
    pages: tuple[Path, ...]

    @property
    def complete(self) -> bool:
        """Whether its part is done, without a failure."""
        return self.rest_done and not self.failures


def run_experiment(
    experiment: Experiment,
    choice: Choice,
    out: Path | None = None,
    data_dir: str | None = None,
    say: Callable[[str], object] = print,
) -> Progress:
    """
    Do what is not yet done of an experiment, and write its pages. Several processes may work in the same folder: each
    leaves the rows alone that another works on.

    :param experiment: The experiment.
    :param choice: Which part of it.
    :param out: Its folder; None: below docs/results.
    :param data_dir: Folder with the data; None: as for the suite.
    :param say: Told what is done.
    :return: What came of it.
    :raises ValueError: If something does not fit.
    :raises OSError: If nothing can be written into the folder.
    """
    laboratory = Laboratory(experiment, ExperimentFolder(out or experiment.out), data_dir)
    choice.check(laboratory)
    for line in laboratory.left_out:
        say(f"left out: {line}")
    failures: list[str] = []
    with time_limit(choice.minutes) as clock:
        complete = True
        if experiment.budgets:  # what a budget buys is known only when the costs are
            complete = _work(laboratory, replace(choice, kinds=("cost",)), clock, failures, say)
            plain, costs = replace(experiment, rows=laboratory.rows), laboratory.folder.costs()
            experiment = budgeted(plain, costs)
            if not experiment.rows:
                if complete:
                    say(f"no row's epoch fits into a budget: {sorted((v['step_cost'], k) for k, v in costs.items())}")
                return Progress(failures=tuple(failures), rest_done=False, pages=())
            laboratory = Laboratory(experiment, laboratory.folder, data_dir)
        complete = _work(laboratory, choice, clock, failures, say) and complete
    if clock.over:
        say("stopped: the time is over; the same command goes on")
    pages = write_pages(laboratory, plain) if experiment.budgets else write_pages(laboratory)
    return Progress(failures=tuple(failures), rest_done=complete, pages=tuple(pages))


def _work(
    laboratory: Laboratory, choice: Choice, clock: Clock, failures: list[str], say: Callable[[str], object]
) -> bool:
    """Do the chosen units until the time is over; whether nothing of them is left, except for what failed."""
    units, worked = choice.units(laboratory), True
    try:
        while worked and not clock.over:  # again for what another process held, or had to come first
            worked = sum(_work_on(unit, laboratory, clock, failures, say) for unit in units) > 0
    except TimeUp:
        return False
    return not clock.over and not any(
        is_pending(unit, laboratory.cell(unit.row, unit.seed), laboratory)
        for unit in units
        if not _failed(unit, failures)
    )


def _failed(unit: Unit, failures: list[str]) -> bool:
    return any(line.startswith(f"{unit}: ") for line in failures)


def _work_on(
    unit: Unit, laboratory: Laboratory, clock: Clock, failures: list[str], say: Callable[[str], object]
) -> bool:
    """Do what is left of a unit, unless the time is over, another process has the row, or it failed before."""
    worked = False
    if clock.over or _failed(unit, failures):
        return worked
    with laboratory.folder.taken(unit.row.name, unit.seed) as free:
        cell = laboratory.cell(unit.row, unit.seed) if free else None
        while cell is not None and not clock.over and is_pending(unit, cell, laboratory):
            start = time.monotonic()
            clock.may_interrupt = unit.kind == "train" and DEFENCES[unit.row.name].ours
            outcome, error = attempt(lambda cell=cell: work_on(unit, cell, laboratory))  # type: ignore[misc]
            clock.may_interrupt = False
            if error is not None:
                outcome = error_text(error)
                failures.append(f"{unit}: {outcome}")
            worked = True
            say(f"{time.strftime('%H:%M:%S')}  {unit}: {outcome}  ({time.monotonic() - start:.0f} s)")
            if error is not None or unit.kind == "train":
                break
    return worked


class Clock:
    """Whether the time of a call is over, and whether that may interrupt the present unit."""

    def __init__(self) -> None:
        self.over = False
        self.may_interrupt = False

    def note(self, number: int, frame: FrameType | None) -> None:
        """
        Handle SIGTERM: the unit is finished first. A training by this package's loop has caught the signal, finished
        the step and written a checkpoint before it arrives here, and is left.
        """
        self.over = True
        if self.may_interrupt:
            raise TimeUp


@contextmanager
def time_limit(minutes: float | None) -> Iterator[Clock]:
    """Yield a clock that is over after some minutes, or at SIGTERM; of the main thread only."""
    clock = Clock()
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("an experiment runs in the main thread, which alone is told of signals")
    former = signal.signal(signal.SIGTERM, clock.note)
    timer = None
    if minutes is not None:
        timer = threading.Timer(60 * minutes, os.kill, (os.getpid(), signal.SIGTERM))
        timer.daemon = True
        timer.start()
    try:
        yield clock
    finally:
        if timer is not None:
            timer.cancel()
        signal.signal(signal.SIGTERM, former)
