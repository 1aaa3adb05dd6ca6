"""When a learning rate scheduler steps: decided before training, from the scheduler, the settings and the run."""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection
from typing import Any

import torch
from torch.optim import lr_scheduler as schedulers

from art_sensreg.training.config import TrainingConfig
from art_sensreg.training.schedules.shapes import interval_of, plan_of


def check_scheduler(scheduler: Any, optimizer: torch.optim.Optimizer) -> None:
    """
    Check that a scheduler is one of torch's or timm's kind, or None, and drives the optimizer of the run.

    :raises TypeError: If it is something else: a class, a function that makes one, an optimizer.
    :raises ValueError: If it drives another optimizer.
    """
    if scheduler is None:
        return
    expected = "expected a torch learning rate scheduler"
    if isinstance(scheduler, type):
        raise TypeError(
            f"`scheduler` is the class {scheduler.__name__}; {expected}, made of the classifier's optimizer: "
            f"{scheduler.__name__}(classifier.optimizer, ...)."
        )
    if isinstance(scheduler, torch.optim.Optimizer):
        raise TypeError(f"`scheduler` is the optimizer {type(scheduler).__name__}; {expected}.")
    if not callable(getattr(scheduler, "step", None)):
        made = " (a function that makes one? call it with the classifier's optimizer)" if callable(scheduler) else ""
        raise TypeError(f"`scheduler` is {scheduler!r}; {expected}{made}.")
    for name in ("state_dict", "load_state_dict"):
        if not callable(getattr(scheduler, name, None)):
            raise TypeError(f"`scheduler` is {scheduler!r}, which has no `{name}`; {expected}.")
    driven = getattr(scheduler, "optimizer", optimizer)
    # A wrapper such as SAM shares its groups with the optimizer inside.
    if driven is not optimizer and getattr(driven, "param_groups", None) is not optimizer.param_groups:
        raise ValueError("`scheduler` drives another optimizer; expected one of the classifier's own optimizer.")
    if not _takes_updates(scheduler) and not _is_plateau(scheduler):
        needed = [p.name for p in _parameters(scheduler.step) if p.default is p.empty and p.kind in _POSITIONAL]
        if needed:
            raise TypeError(f"`scheduler` is {type(scheduler).__name__}, whose `step` needs {needed}; {expected}.")


class Schedule:
    """
    Steps a scheduler at the right moments of a run.

    Schedulers of timm's kind, with `step(epoch)` and `step_update(num_updates)`, get both calls: they know which of
    them counts.

    :param scheduler: Any torch learning rate scheduler, one of timm's, or None.
    :param config: `scheduler_interval` and `scheduler_monitor`.
    :param entries: Entries that each epoch's record will have.
    :raises ValueError: If the settings do not fit the scheduler, or what it watches will not be there.

    Example:
    >>> from art_sensreg.training.schedules.stepping import Schedule
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> schedule = Schedule(schedulers.StepLR(optimizer, 5), TrainingConfig(), ["loss", "accuracy"])
    >>> schedule.start(nb_epochs=10, steps_of_epoch=100, steps_left=1000)
    >>> schedule.per_step
    False
    """

    def __init__(self, scheduler: Any, config: TrainingConfig, entries: Collection[str]) -> None:
        self.scheduler, self.interval = scheduler, config.scheduler_interval
        self.per_step: bool | None = None  # not decided yet
        self._both = _takes_updates(scheduler)
        self.entry = _watched(scheduler, config.scheduler_monitor, entries)
        if config.scheduler_interval == "step" and _is_plateau(scheduler):
            raise ValueError(
                "`scheduler_interval` is 'step' and `scheduler` a ReduceLROnPlateau, which watches an epoch's result; "
                "expected 'epoch' or 'auto'."
            )
        own = "epoch" if getattr(scheduler, "t_in_epochs", True) else "step"
        if self._both and config.scheduler_interval not in ("auto", own):
            raise ValueError(
                f"`scheduler_interval` is {config.scheduler_interval!r} and `scheduler` counts in units of one {own}; "
                f"expected {own!r} or 'auto'."
            )

    def start(self, nb_epochs: int, steps_of_epoch: int, steps_left: int) -> None:
        """
        Decide whether the scheduler steps after every step or every epoch, and check that it lasts for the run.
        ValueError if it cannot be told, or it is too short.
        """
        if self.scheduler is None or self._both:
            self.per_step = False
            return
        if self.per_step is None:
            self.per_step = self._decide(nb_epochs, steps_of_epoch)
        calls = steps_left if self.per_step else -(-steps_left // steps_of_epoch)
        if isinstance(self.scheduler, schedulers.OneCycleLR):
            left = self.scheduler.total_steps - max(self.scheduler.last_epoch, 0)
            if left < calls:
                raise ValueError(
                    f"`scheduler` has {left} of {self.scheduler.total_steps} steps left; expected at least {calls}."
                )
        if isinstance(self.scheduler, schedulers.LambdaLR):
            _check_functions(self.scheduler, calls)

    def _decide(self, nb_epochs: int, steps_of_epoch: int) -> bool:
        if self.interval != "auto" or _is_plateau(self.scheduler):
            return self.interval == "step"
        if isinstance(self.scheduler, schedulers.OneCycleLR):
            return bool(self.scheduler.total_steps != nb_epochs)
        if isinstance(self.scheduler, schedulers.CyclicLR):
            return True
        plan = plan_of(self.scheduler, nb_epochs * steps_of_epoch)
        done = max(getattr(self.scheduler, "last_epoch", 0), 0)
        interval = interval_of(plan, nb_epochs, steps_of_epoch, done)
        if interval is None:
            shape = (
                f"reaches its highest learning rate after {plan.rise} calls" if plan.rise else "counts steps by name"
            )
            if not plan.rise and not plan.says_step:
                shape = f"has a length of {plan.length} calls"
            raise ValueError(
                f"`scheduler_interval` is 'auto' and `scheduler`, a {type(self.scheduler).__name__}, {shape}, in a run "
                f"of {nb_epochs} epochs of {steps_of_epoch} steps: it may be meant for either; expected 'step' (call "
                "it after every step) or 'epoch'."
            )
        return interval == "step"

    def after_step(self, total_steps: int) -> None:
        """Step the scheduler if it counts steps; ValueError if it sets a learning rate that is not one."""
        if self._both:
            self.scheduler.step_update(num_updates=total_steps)
        elif self.per_step:
            self.scheduler.step()
        else:
            return
        self._check_rates()

    def after_epoch(self, epoch: int, record: dict[str, float]) -> None:
        """Step the scheduler if it counts epochs (from 1); ValueError if it sets a learning rate that is not one."""
        if self.scheduler is None or self.per_step:
            return
        watched = () if self.entry is None else (record[self.entry],)
        self.scheduler.step(*([epoch] if self._both else []), *watched)
        self._check_rates()

    def _check_rates(self) -> None:
        optimizer = getattr(self.scheduler, "optimizer", None)
        for group in getattr(optimizer, "param_groups", ()):
            rate = group.get("lr")
            if isinstance(rate, float) and not (rate >= 0 and math.isfinite(rate)):
                raise ValueError(f"`scheduler` sets a learning rate of {rate}; expected a finite one of at least 0.")

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold besides the scheduler's own state."""
        inner = getattr(self.scheduler, "lr_scheduler", None)  # timm's plateau keeps half of its state there
        kept = inner.state_dict() if isinstance(inner, schedulers.LRScheduler) else None
        return {"per_step": self.per_step, "inner": kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned: a run that is made longer steps its scheduler as before."""
        self.per_step = state["per_step"]
        if state["inner"] is not None:
            self.scheduler.lr_scheduler.load_state_dict(state["inner"])


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _parameters(function: Any) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return []


def _takes_updates(scheduler: Any) -> bool:
    """Whether it is of timm's kind."""
    return callable(getattr(scheduler, "step_update", None))


def _plateau(scheduler: Any) -> Any:
    """The scheduler, or what it wraps, that watches a result; or None."""
    inner = getattr(scheduler, "lr_scheduler", None)
    return next((s for s in (scheduler, inner) if isinstance(s, schedulers.ReduceLROnPlateau)), None)


def _is_plateau(scheduler: Any) -> bool:
    return _plateau(scheduler) is not None


def _watched(scheduler: Any, entry: str | None, entries: Collection[str]) -> str | None:
    """The entry of the history that a scheduler is given after every epoch, or None."""
    plateau = _plateau(scheduler)
    if plateau is None:
        if entry is not None:
            came = "None" if scheduler is None else type(scheduler).__name__
            raise ValueError(f"`scheduler_monitor` is {entry!r} and `scheduler` is {came}; expected ReduceLROnPlateau.")
        return None
    if entry is None:
        metric = "accuracy" if plateau.mode == "max" else "loss"
        return f"val_{metric}" if f"val_{metric}" in entries else metric
    if entry not in entries:
        raise ValueError(f"`scheduler_monitor` is {entry!r}; expected an entry of the history: {', '.join(entries)}.")
    better = "max" if entry.endswith("accuracy") else "min" if entry.endswith("loss") else plateau.mode
    if plateau.mode != better:
        raise ValueError(
            f"`scheduler_monitor` is {entry!r} and the mode of `scheduler` {plateau.mode!r}; expected {better!r}."
        )
    return entry


def _check_functions(scheduler: Any, calls: int) -> None:
    """A function that fails, or gives no learning rate, does so before training."""
    first = max(scheduler.last_epoch, 0) + 1
    for function in scheduler.lr_lambdas:
        for call in range(first, first + min(calls, 100_000)):
            try:
                factor = float(function(call))
            except Exception as error:
                raise ValueError(
                    f"`scheduler` is called {calls} times in this run; its function fails at {call} ({error!r})."
                ) from error
            if not (factor >= 0 and math.isfinite(factor)):
                raise ValueError(
                    f"`scheduler` is called {calls} times in this run; its function gives {factor:g} at {call}; "
                    "expected a finite factor of at least 0."
                )
