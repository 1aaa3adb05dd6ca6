"""What a training step costs: whole epochs, each timed between plain steps on the same machine."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

import torch

from art_sensreg.benchmark.defences.registry import DEFENCES, options_of
from art_sensreg.benchmark.defences.step_timing import PlainSteps
from art_sensreg.benchmark.engine.context import SuiteContext
from art_sensreg.benchmark.engine.runtime import quiet
from art_sensreg.utils.rng import seed_everything

ROUNDS = 3
LEAST_STEPS = 100  # of a round: shorter epochs are repeated, so that what comes before training weighs little


@dataclass(frozen=True, kw_only=True)
class Round:
    """
    An epoch of a defence, or several short ones, between plain steps.

    :param seconds: Time of a step, in the mean over the round.
    :param before: Time of a plain cross-entropy step just before it.
    :param after: The same just after it.
    :param steps: Steps of the round.
    :param threads: Threads of torch.
    :param device: Where it ran.
    """

    seconds: float
    before: float
    after: float
    steps: int
    threads: int
    device: str

    @property
    def ratio(self) -> float:
        """Time of a step over that of a plain one: the machine's own drift is divided out."""
        return 2 * self.seconds / (self.before + self.after)


def measure_round(suite: SuiteContext, name: str, seed: int = 0) -> Round:
    """
    Train a defence for an epoch (or several, of few steps each), with plain steps timed before and after. An epoch's
    own work, as the check for catastrophic overfitting, belongs to its cost.
    """
    spec = replace(suite.training_spec(seed, name), epochs=1)
    spec = replace(spec, epochs=math.ceil(LEAST_STEPS / spec.steps))
    options = options_of(suite.settings, name)
    unit = PlainSteps(spec)
    before = unit.seconds()
    seed_everything("cost", name, seed)
    start = time.perf_counter()
    with quiet():
        DEFENCES[name].train(spec, options)
    seconds = (time.perf_counter() - start) / spec.steps
    return Round(
        seconds=seconds,
        before=before,
        after=unit.seconds(),
        steps=spec.steps,
        threads=torch.get_num_threads(),
        device=spec.device,
    )


def with_round(cost: Mapping[str, Any] | None, found: Round) -> dict[str, Any]:
    """
    What is stored of a row's cost, with a further round: `step_cost` is the median of their ratios.

    Example:
    >>> from art_sensreg.benchmark.studies.experiments.costs import Round, with_round
    >>> one = Round(seconds=0.02, before=0.01, after=0.01, steps=9, threads=1, device="cpu")
    >>> with_round(None, one)["step_cost"]
    2.0
    """
    rounds = [*(cost or {}).get("rounds", []), {**asdict(found), "ratio": found.ratio}]
    return {"step_cost": median(one["ratio"] for one in rounds), "rounds": rounds}
