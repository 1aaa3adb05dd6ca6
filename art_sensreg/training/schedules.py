"""When a learning rate scheduler steps."""

from __future__ import annotations

from typing import Any

import torch

from art_sensreg.training.config import TrainingConfig


def steps_every_batch(scheduler: Any, config: TrainingConfig) -> bool:
    """
    Tell whether a scheduler steps after every batch.

    :param scheduler: Any torch learning rate scheduler, or None.
    :param config: Its `scheduler_interval` decides; `auto` goes by the scheduler.
    :return: False if it steps after every epoch, or there is none.
    :raises TypeError: If it is no scheduler.
    :raises ValueError: If the interval does not fit the scheduler.

    Example:
    >>> from art_sensreg.training.schedules import steps_every_batch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> steps_every_batch(torch.optim.lr_scheduler.StepLR(optimizer, 5), TrainingConfig())
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
    return per_step


def check_length(scheduler: Any, config: TrainingConfig, per_step: bool, steps: int, steps_of_epoch: int) -> None:
    """
    Check that a `OneCycleLR`, which has an end, lasts for the rest of the run.

    :param scheduler: Any scheduler, or None.
    :param config: Settings.
    :param per_step: Whether it steps after every batch.
    :param steps: Training steps that are left.
    :param steps_of_epoch: Training steps of an epoch.
    :raises ValueError: If it is too short.
    """
    if isinstance(scheduler, torch.optim.lr_scheduler.OneCycleLR):
        wanted = steps if per_step else -(-steps // steps_of_epoch)
        left = scheduler.total_steps - max(scheduler.last_epoch, 0)
        if left < wanted:
            raise ValueError(
                f"`scheduler` has {left} of {scheduler.total_steps} steps left; expected at least {wanted}."
            )


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
