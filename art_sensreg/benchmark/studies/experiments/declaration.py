"""What an experiment is: rows that are trained with several seeds, each attacked on as many images as it is worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from art_sensreg.benchmark.config.request import SuiteRequest
from art_sensreg.benchmark.studies.experiments.goals import Goal

RESULTS = Path("docs") / "results"
AIMED = ("transfer", "hidden-away", "hidden-towards", "far-starts", "scaled-logits", "targeted-margin", "kitchen-sink")
"""The attacks that are aimed at this defence, or longer than AutoAttack."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """
    A row of an experiment.

    :param name: Its name in files and tables.
    :param defence: The defence of the suite that it trains; None: the one of its name.
    :param options: Options of the defence.
    :param settings: Fields of the suite's settings in which it differs: `epochs`, `activation`, ...
    :param seeds: Number of training seeds, from 0.
    :param points: Test images that are attacked: the first so many.
    :param headline: Whether it is attacked first, by the aimed attacks too, and audited.
    :param of: The row that it is a variant of, if any.

    Example:
    >>> from art_sensreg.benchmark.studies.experiments import Row
    >>> Row(name="fbf", defence="art-fbf-fixed").trains
    'art-fbf-fixed'
    """

    name: str
    defence: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    seeds: int = 1
    points: int = 500
    headline: bool = False
    of: str | None = None

    @property
    def trains(self) -> str:
        """The defence that it trains."""
        return self.defence or self.name


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """
    An experiment: what all its rows share, and the rows.

    :param name: Its name on the command line.
    :param title: The heading of its page.
    :param request: Data set, threats, budget and training, as for the suite. The first norm's largest size is that of
        adversarial training.
    :param rows: The rows.
    :param aimed: Attacks on the first `aimed_points` images that a headline row's AutoAttack left, at `aimed_at`.
    :param aimed_points: How many images these attack.
    :param aimed_at: Norm and size at which they attack; None: the first norm's largest size.
    :param audited: Whether headline rows are audited.
    :param explained: Whether the explanations of all rows are scored.
    :param costed: Whether the step cost of each row is measured between plain steps.
    :param budgets: Training costs, in epochs of plain training: each row is trained once for each, in as many epochs as
        its measured step cost allows. Empty: rows have the epochs of the request.
    :param folder: Name of the folder below docs/results; None: that of the experiment. Two experiments may share one,
        and with it the trained models.
    :param goals: What its rows are meant to reach, if that was fixed beforehand.
    """

    name: str
    title: str
    request: SuiteRequest
    rows: tuple[Row, ...]
    aimed: tuple[str, ...] = ()
    aimed_points: int = 200
    aimed_at: tuple[str, float] | None = None
    audited: bool = False
    explained: bool = False
    costed: bool = True
    budgets: tuple[int, ...] = ()
    folder: str | None = None
    goals: tuple[Goal, ...] = ()

    @property
    def out(self) -> Path:
        """Where it is kept."""
        return RESULTS / (self.folder or self.name)

    @property
    def seeds(self) -> int:
        """The most seeds of a row."""
        return max(row.seeds for row in self.rows)

    def tiny(self) -> Experiment:
        """The same on few images with weak attacks, to try it."""
        # Steps of a large network take seconds on a CPU.
        large = self.request.model == "preact-resnet18"
        train, test, points = (16, 10, 2) if large else (300, 30, 20)
        batch = 8 if large else self.request.batch_size
        request = replace(self.request, train_size=train, test_size=test, epochs=1, batch_size=batch, budget="smoke")
        rows = tuple(
            replace(
                row, points=min(row.points, points), seeds=min(row.seeds, 2), settings={**row.settings, "epochs": 1}
            )
            for row in self.rows
        )
        budgets = (4, 8) if self.budgets else ()
        return replace(self, request=request, rows=rows, aimed_points=5, budgets=budgets)
