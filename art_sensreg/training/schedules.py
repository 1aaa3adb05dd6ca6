"""When a learning rate scheduler steps."""

from __future__ import annotations

from typing import Any

import torch

from art_sensreg.training.config import TrainingConfig


def steps_every_batch(scheduler: Any, config: TrainingConfig, steps: int) -> bool:
    """
    Tell whether a scheduler steps after every batch, and check that it is long enough.

    :param scheduler: Any torch learning rate scheduler, or None.
    :param config: Its `scheduler_interval` decides; `auto` goes by the scheduler.
    :param steps: Steps of an epoch.
    :return: False if it steps after every epoch, or there is none.
    :raises TypeError: If it is no scheduler.
    :raises ValueError: If a `OneCycleLR` is too short, or the interval does not fit the scheduler.

    Example:
    >>> from art_sensreg.training.schedules import steps_every_batch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> steps_every_batch(torch.optim.lr_scheduler.StepLR(optimizer, 5), TrainingConfig(), steps=10)
    False
    """
    schedulers = torch.optim.lr_scheduler
    if scheduler is None:
        return False
    if not hasattr(scheduler, "step"):
        raise TypeError(f"`scheduler` is {scheduler!r}; expected a torch learning rate scheduler.")
    per_step = config.scheduler_interval == "step"
    if per_step and isinstance(scheduler, schedulers.ReduceLROnPlateau):
        raise ValueError(
            "`scheduler_interval` is 'step' and `scheduler` a ReduceLROnPlateau, which watches an epoch's result; "
            "expected 'epoch' or 'auto'."
        )
    if config.scheduler_interval == "auto":
        one_cycle = isinstance(scheduler, schedulers.OneCycleLR) and scheduler.total_steps != config.nb_epochs
        per_step = one_cycle or isinstance(scheduler, schedulers.CyclicLR)
    if isinstance(scheduler, schedulers.OneCycleLR):
        wanted = config.nb_epochs * (steps if per_step else 1)
        left = scheduler.total_steps - max(scheduler.last_epoch, 0)
        if left < wanted:
            raise ValueError(
                f"`scheduler` has {left} of {scheduler.total_steps} steps left; expected at least {wanted}."
            )
    return per_step


def step_after_epoch(scheduler: Any, record: dict[str, float]) -> None:
    """
    Step a scheduler at the end of an epoch; `ReduceLROnPlateau` gets what it watches.

    :param scheduler: The scheduler.
    :param record: The epoch's entry of the history: accuracy for `mode="max"`, else the loss, on validation data if
        there are some.
    """
    if not isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        scheduler.step()
        return
    metric = "accuracy" if scheduler.mode == "max" else "loss"
    scheduler.step(record.get(f"val_{metric}", record[metric]))
