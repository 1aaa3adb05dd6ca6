"""Whether a learning rate schedule was written for epochs or for steps, as far as its shape tells."""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch.optim import lr_scheduler as schedulers

# Calls after which a schedule is not followed any further.
_FOLLOWED = 20_000
# What people call the argument of a `LambdaLR` that counts optimizer steps.
_STEP_WORDS = {
    *("step", "steps", "current_step", "global_step", "cur_step", "n_step", "iteration", "iterations", "iter", "it"),
    *("n_iter", "cur_iter", "batch", "num_updates", "update"),
}


@dataclass(frozen=True)
class Plan:
    """
    The shape of a schedule, in calls of its `step`: until the learning rate is highest (0 if it only falls); until the
    schedule ends, starts again or first moves (None if nothing tells); and whether its author says that it counts
    steps.
    """

    rise: int = 0
    length: int | None = None
    says_step: bool = False


def interval_of(plan: Plan, epochs: int, steps_of_epoch: int, done: int = 0) -> str | None:
    """
    Whether a schedule counts in `epoch` or `step`, or None if that cannot be known. `done` calls have been made
    already.

    A schedule as long as the run has steps was meant for steps. If a warm-up would not be over at the end of the run,
    either it was not meant for epochs, or the run is a short trial of a long schedule: nobody can know.
    """
    steps = epochs * steps_of_epoch
    rise, length = plan.rise - done, math.inf if plan.length is None else plan.length - done
    if steps_of_epoch == 1:
        return "epoch"
    if plan.says_step:
        return "step" if plan.rise else None
    if length > epochs and abs(length - steps) <= 0.1 * steps:
        return "step"
    if rise > epochs:
        return None
    # A long schedule may be tried for a few epochs, which does no harm if it only falls.
    if length <= max(2 * epochs, 10) or length > 1.1 * steps:
        return "epoch"
    return None if length % steps_of_epoch == 0 or 4 * length >= steps else "epoch"


def plan_of(scheduler: Any, steps: int) -> Plan:
    """The shape of a torch scheduler in a run of that many steps; the scheduler and its optimizer stay as they are."""
    kind = type(scheduler)
    if kind is schedulers.SequentialLR:
        return _one_after_another([plan_of(s, steps) for s in scheduler._schedulers], scheduler._milestones)
    if kind is schedulers.ChainedScheduler:
        return _together([plan_of(s, steps) for s in scheduler._schedulers])
    if kind in _SHAPES:
        return _SHAPES[kind](scheduler)
    calls = min(_FOLLOWED, 3 * steps // 2 + 2)
    if kind in (schedulers.LambdaLR, schedulers.MultiplicativeLR):
        return _together([_of_function(f, calls, kind is schedulers.LambdaLR) for f in scheduler.lr_lambdas])
    return _together([_shape_of(rates) for rates in _follow(scheduler, calls)])


def _linear(scheduler: Any) -> Plan:
    rises = scheduler.start_factor < scheduler.end_factor
    return Plan(scheduler.total_iters if rises else 0, scheduler.total_iters)


def _one_cycle(scheduler: Any) -> Plan:
    return Plan(int(scheduler._schedule_phases[0]["end_step"]), scheduler.total_steps)


_SHAPES: dict[type, Callable[[Any], Plan]] = {
    schedulers.LinearLR: _linear,
    schedulers.ConstantLR: lambda s: Plan(s.total_iters if s.factor < 1 else 0, s.total_iters),
    schedulers.PolynomialLR: lambda s: Plan(0, s.total_iters),
    schedulers.CosineAnnealingLR: lambda s: Plan(0, s.T_max),
    schedulers.CosineAnnealingWarmRestarts: lambda s: Plan(0, s.T_0),
    schedulers.StepLR: lambda s: Plan(0, s.step_size),
    schedulers.MultiStepLR: lambda s: Plan(0, max(s.milestones, default=None)),
    schedulers.ExponentialLR: lambda s: Plan(),
    schedulers.OneCycleLR: _one_cycle,
    schedulers.CyclicLR: lambda s: Plan(1, None, says_step=True),
}


def _one_after_another(plans: Sequence[Plan], milestones: Sequence[int]) -> Plan:
    first, last = plans[0], plans[-1]
    rise = min(first.rise, milestones[0]) if milestones else first.rise
    length = None if last.length is None else last.length + (milestones[-1] if milestones else 0)
    return Plan(rise, length, any(plan.says_step for plan in plans))


def _together(plans: Iterable[Plan]) -> Plan:
    plans = list(plans)
    lengths = [plan.length for plan in plans if plan.length is not None]
    rise = max((plan.rise for plan in plans), default=0)
    return Plan(rise, max(lengths, default=None), any(plan.says_step for plan in plans))


def _of_function(function: Callable[[int], float], calls: int, absolute: bool) -> Plan:
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        names = []
    values: list[float] = []
    try:
        for call in range(calls):
            values.append(float(function(call)) if absolute or call else 1.0)
    except Exception:  # noqa: BLE001 - a table that has an end; whether it is too short is seen later
        pass
    if not absolute:
        values = list(accumulate(values, lambda a, b: a * b))
    shape = _shape_of(values, ended=len(values) < calls)
    return Plan(shape.rise, shape.length, names[:1] != [] and names[0] in _STEP_WORDS)


def _shape_of(values: Sequence[float], ended: bool = False) -> Plan:
    """The shape of a sequence of learning rates; one that goes below 0 has ended there."""
    values = [max(value, 0.0) for value in values]
    if not values or not all(map(math.isfinite, values)):
        return Plan()
    most, least = max(values), min(values)
    rises = most > values[0] * (1 + 1e-6)
    rise = next(i for i, value in enumerate(values) if value >= most * (1 - 1e-4)) if rises else 0
    if ended:
        return Plan(rise, len(values))
    moved = [i for i in range(1, len(values)) if abs(values[i] - values[i - 1]) > 1e-9 * abs(values[i - 1])]
    if not moved or values[moved[-1] - 1] < 1e-9 * most:  # a geometric decay has no end
        return Plan(rise)
    lowest = values.index(least)
    length = moved[-1] if moved[-1] < len(values) - 1 else lowest if 0 < lowest < len(values) - 1 else None
    return Plan(rise, length)


def _follow(scheduler: Any, calls: int) -> list[list[float]]:
    """The learning rates of each group, by a copy of the scheduler that drives a stand-in of the optimizer."""
    optimizer = getattr(scheduler, "optimizer", None)
    if not isinstance(optimizer, torch.optim.Optimizer):
        return []
    groups = [{k: copy.copy(v) for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    stand_in = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.0)
    stand_in.param_groups = [{**group, "params": [torch.zeros(1)]} for group in groups]
    rates: list[list[float]] = [[] for _ in groups]
    try:
        copied = copy.deepcopy(scheduler, {id(optimizer): stand_in})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the scheduler steps before its optimizer
            for _ in range(calls):
                for own, group in zip(rates, stand_in.param_groups, strict=True):
                    own.append(float(group["lr"]))
                copied.step()
    except Exception:  # noqa: BLE001 - a scheduler that cannot be copied or followed tells nothing
        pass
    return rates
