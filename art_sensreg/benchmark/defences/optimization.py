"""Optimizers and schedules as a run asks for them, and how trainers with a loop of their own follow them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR, OneCycleLR

from art_sensreg.benchmark.config.optimization import OptimizationSettings
from art_sensreg.training.numerics.ema import WeightAverage

MOMENTUM = 0.9
# What a schedule changes in the groups of an optimizer.
_SCHEDULED = ("lr", "betas")


class NotFollowedError(Exception):
    """A trainer has done other steps than those that the settings were laid out for."""


def resolved(asked: OptimizationSettings, own: OptimizationSettings) -> OptimizationSettings:
    """What is asked for, and where nothing is, what a defence does by itself."""
    filled = {name: value for name, value in asdict(own).items() if getattr(asked, name) is None}
    if asked.optimizer not in (None, "sgd"):
        filled.pop("momentum", None)
    return replace(asked, **filled)


def make_optimizer(parameters: Iterable[nn.Parameter], rate: float, settings: OptimizationSettings) -> Optimizer:
    """The optimizer of some parameters at a learning rate: Adam unless the settings say otherwise."""
    decay = settings.weight_decay or 0.0
    if settings.optimizer == "sgd":
        momentum = MOMENTUM if settings.momentum is None else settings.momentum
        return torch.optim.SGD(parameters, lr=rate, momentum=momentum, weight_decay=decay)
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, lr=rate, weight_decay=decay)


def one_cycle(optimizer: Optimizer, peak: float, steps: int) -> OneCycleLR:
    """A one-cycle schedule that leaves SGD's momentum as it was asked for; Adam's, which cannot be, is cycled."""
    cycle = not isinstance(optimizer, torch.optim.SGD)
    return OneCycleLR(optimizer, peak, total_steps=steps, cycle_momentum=cycle)


def make_schedule(optimizer: Optimizer, schedule: str, steps: int) -> LRScheduler | None:
    """A schedule of so many steps, which starts from, or peaks at, the optimizer's learning rate; None: constant."""
    if schedule == "one-cycle":
        return one_cycle(optimizer, optimizer.param_groups[0]["lr"], steps + 1)
    if schedule == "piecewise":
        return MultiStepLR(optimizer, [-(-steps // 2), -(-3 * steps // 4)], gamma=0.1)
    return None


def scheduled_values(optimizer: Optimizer, schedule: str, steps: int) -> list[dict[str, Any]]:
    """What a schedule writes into an optimizer's groups before each of its steps; the optimizer stays as it is."""
    group = {name: value for name, value in optimizer.param_groups[0].items() if name != "params"}
    kind: Any = type(optimizer)
    stand_in = kind([{"params": [torch.zeros(1, requires_grad=True)], **group}], lr=group["lr"])
    scheduler, values = make_schedule(stand_in, schedule, steps), []
    for _ in range(steps):
        values.append({name: stand_in.param_groups[0][name] for name in _SCHEDULED if name in group})
        stand_in.step()
        if scheduler is not None:
            scheduler.step()
    return values


class OptimizerHooks:
    """
    Follows a schedule, clips gradients, and averages weights, in a training loop that knows of none of them.

    :param model: What is averaged.
    :param settings: `schedule`, `max_grad_norm` and `weight_average`.
    :param steps: Steps of the optimizer in the whole run.
    :param refresh: Called after each step, before the average: brings the weights to the model if the optimizer has
        others. None: it has the model's.
    :param at_steps: Whether the average is taken after each step; else when :meth:`average` is called.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: OptimizationSettings,
        steps: int,
        refresh: Callable[[], None] | None = None,
        at_steps: bool = True,
    ) -> None:
        self._model, self._settings, self._steps = model, settings, steps
        self._refresh, self._at_steps = refresh, at_steps
        decay = settings.weight_average
        self._average = None if decay is None else WeightAverage(model, decay, warmup=True)
        self._values: list[dict[str, Any]] | None = None
        self._done = 0
        self._handles: list[Any] = []
        self._attached: list[Optimizer] = []

    def attach(self, optimizer: Optimizer) -> None:
        """Follow an optimizer, once; a later one goes on where the former has stopped."""
        if not self._settings.given or any(optimizer is known for known in self._attached):
            return
        if self._settings.schedule is not None and self._values is None:
            self._values = scheduled_values(optimizer, self._settings.schedule, self._steps)
        before, after = optimizer.register_step_pre_hook, optimizer.register_step_post_hook
        self._handles += [before(self._before), after(self._after)]
        self._attached.append(optimizer)

    def average(self) -> None:
        """Take the present weights into the average."""
        if self._average is not None:
            if self._refresh is not None:
                self._refresh()
            self._average.update_parameters(self._model)

    def finish(self) -> None:
        """Let go of the optimizers, and give the model the average. NotFollowedError if not all steps were done."""
        for handle in self._handles:
            handle.remove()
        if self._attached and self._done != self._steps and (self._values is not None or not self._done):
            raise NotFollowedError(f"it did {self._done} steps with its optimizer, and not {self._steps}")
        if self._average is not None:
            self._model.load_state_dict(self._average.module.state_dict())

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        # Before the step, and not after the former: some trainers write rates of their own.
        if self._values is not None and self._done < self._steps:
            for group in optimizer.param_groups:
                group.update(self._values[self._done])
        if self._settings.max_grad_norm is not None:
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self._settings.max_grad_norm)

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._done += 1
        if self._at_steps:
            self.average()
