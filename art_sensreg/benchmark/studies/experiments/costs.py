"""What a training step costs: whole epochs, each timed between plain steps on the same machine."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from statistics import median

import torch

from art_sensreg.benchmark.defences.registry import DEFENCES, options_of
from art_sensreg.benchmark.engine.context import SuiteContext
from art_sensreg.benchmark.engine.runtime import quiet
from art_sensreg.utils.rng import seed_everything

_ROUNDS = 3


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """
    What a step costs, once the machine's own drift is divided out.

    :param step_cost: Time of a step over that of a plain cross-entropy step: the median of the rounds.
    :param ratios: Of each round, against the mean of the plain steps just before and after it.
    :param seconds: Time of a step in each round.
    :param plain_seconds: Time of a plain step before the first round, between them, and after the last one.
    :param steps: Steps of a round: those of an epoch.
    :param threads: Threads of torch.
    """

    step_cost: float
    ratios: tuple[float, ...]
    seconds: tuple[float, ...]
    plain_seconds: tuple[float, ...]
    steps: int
    threads: int


def measure_cost(suite: SuiteContext, name: str, seed: int = 0, rounds: int = _ROUNDS) -> StepCost:
    """
    Train a defence for an epoch, several times, with plain steps timed before and after each. An epoch's own work, as
    the check for catastrophic overfitting, belongs to its cost.
    """
    spec = replace(suite.training_spec(seed, name), epochs=1)
    options = options_of(suite.settings, name)
    plain, seconds = [spec.plain_step_seconds()], list[float]()
    for _ in range(rounds):
        seed_everything("cost", name, seed)
        start = time.perf_counter()
        with quiet():
            DEFENCES[name].train(spec, options)
        seconds.append((time.perf_counter() - start) / spec.steps)
        plain.append(spec.plain_step_seconds())
    ratios = [2 * one / (before + after) for one, before, after in zip(seconds, plain[:-1], plain[1:], strict=True)]
    return StepCost(
        step_cost=median(ratios),
        ratios=tuple(ratios),
        seconds=tuple(seconds),
        plain_seconds=tuple(plain),
        steps=spec.steps,
        threads=torch.get_num_threads(),
    )
