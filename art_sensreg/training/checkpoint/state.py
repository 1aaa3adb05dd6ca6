"""What a training run is made of between two steps: collected for a checkpoint, and put back."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

from art_sensreg.training.batches import LoaderBatches
from art_sensreg.training.checkpoint.loading import check_model_state, check_optimizer_state
from art_sensreg.training.checkpoint.plain_state import load_values, values_of
from art_sensreg.training.optimizers import inner_optimizers, inner_states, load_inner_states
from art_sensreg.training.resources import match_layout
from art_sensreg.utils.rng import random_state

if TYPE_CHECKING:
    from art_sensreg.training.loop import Training

logger = logging.getLogger(__name__)


def run_state(training: Training) -> dict[str, Any]:
    """
    Collect everything that the rest of a run depends on.

    :param training: The run.
    :return: What a checkpoint holds.
    """
    state = training.state
    return {
        "seed": training.seed,
        "epoch": state.epoch,
        "step": state.step,
        "inside": training.inside,
        "total_steps": state.total_steps,
        "skipped": state.skipped,
        "nb_epochs": training.config.nb_epochs,
        "stop": state.stop and not training.inside,  # one inside an epoch breaks off a run that goes on later
        "rate": training.rate,
        "sums": training.sums.state_dict(),
        "history": state.history,
        "model": training.model.state_dict(),
        "plain values": values_of(_attributes(training)),
        "frozen": [name for name, weight in training.model.named_parameters() if not weight.requires_grad],
        "objective": training.own.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "inner optimizers": inner_states(training.optimizer),
        "scheduler": None if training.scheduler is None else training.scheduler.state_dict(),
        "schedule": training.schedule.state_dict(),
        "stepper": training.stepper.state_dict(),
        "monitor": None if training.monitor is None else training.monitor.state_dict(),
        "guard": None if training.guard is None else training.guard.state_dict(),
        "callbacks": [
            callback.state_dict() if hasattr(callback, "state_dict") else {} for callback in training.config.callbacks
        ],
        "batches": training.batches.state_dict() if isinstance(training.batches, LoaderBatches) else {},
        "random": random_state(),
    }


def restore_run(training: Training, stored: dict[str, Any]) -> None:
    """
    Continue a run.

    :param training: A new run of the same settings, its model on its device.
    :param stored: What `run_state` returned.
    :raises ValueError: If it has gone further than this run is to go, or a tensor does not belong to this run; nothing
        has been changed then.
    """
    state = training.state
    if stored["epoch"] - stored["inside"] > training.config.nb_epochs:
        raise ValueError(
            f"`nb_epochs` is {training.config.nb_epochs}; the checkpoint has done {stored['epoch']} epochs."
        )
    _check(training, stored)
    for name in ("epoch", "step", "total_steps", "skipped"):
        setattr(state, name, stored[name])
    training.seed, training.inside, training.rate = stored["seed"], stored["inside"], stored["rate"]
    state.history[:] = stored["history"]
    training.sums.load_state_dict(stored["sums"])
    training.probes = training.new_probes()
    training.model.load_state_dict(stored["model"])
    load_values(_attributes(training), stored["plain values"])
    for name, parameter in training.model.named_parameters():  # a callback may have frozen some on the way
        parameter.requires_grad_(name not in stored["frozen"])
    training.own.load_state_dict(stored["objective"])
    training.optimizer.load_state_dict(stored["optimizer"])
    load_inner_states(training.optimizer, stored["inner optimizers"])
    if training.scheduler is not None:
        training.scheduler.load_state_dict(stored["scheduler"])
        training.schedule.load_state_dict(stored["schedule"])
    training.stepper.load_state_dict(stored["stepper"])
    if training.monitor is not None and stored["monitor"] is not None:
        training.monitor.load_state_dict(stored["monitor"])
        state.stop = training.monitor.exhausted
    if training.guard is not None and stored.get("guard") is not None:
        training.guard.load_state_dict(stored["guard"])
    for callback, own in zip(training.config.callbacks, stored["callbacks"], strict=False):
        if hasattr(callback, "load_state_dict"):
            callback.load_state_dict(own)
    match_layout(training.optimizer)
    state.stop = state.stop or (stored["stop"] and training.config.nb_epochs <= stored["nb_epochs"])
    if isinstance(training.batches, LoaderBatches):
        training.batches.load_state_dict(stored["batches"])
    if not training.batches.rewindable:
        logger.warning(
            "The training data come from a loader that cannot be rewound: training resumes at the start of epoch %d.",
            state.epoch + 1,
        )


def _attributes(training: Training) -> list[tuple[str, dict[str, Any]]]:
    return [(name, vars(module)) for name, module in training.model.named_modules()]


def _check(training: Training, stored: dict[str, Any]) -> None:
    """Every tensor before any is used; shapes of the optimizer's averages nobody else compares."""
    model, average = training.model, training.stepper.average
    check_model_state(model, stored["model"], "The checkpoint")
    check_optimizer_state(training.optimizer, stored["optimizer"], "The checkpoint")
    for name, inner in inner_optimizers(training.optimizer).items():
        if name in stored["inner optimizers"]:
            check_optimizer_state(inner, stored["inner optimizers"][name], "The checkpoint")
    if average is not None and stored["stepper"]["average"] is not None:
        check_model_state(average, stored["stepper"]["average"], "The average in the checkpoint")
    for name in ("monitor", "guard"):
        weights = (stored.get(name) or {}).get("weights")
        if weights:
            check_model_state(model, weights, "The best epoch in the checkpoint")
    for name, value in stored["stepper"]["scaler"].items():
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"The checkpoint holds {name!r} of the gradient scaler as {value!r}; expected a number.")
