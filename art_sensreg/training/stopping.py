"""What follows an epoch: scores, the scheduler, and whether it is time to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from art_sensreg.training.checkpoint.objective_state import Trained
from art_sensreg.training.metrics import validate
from art_sensreg.utils.model_rng import seeded
from art_sensreg.utils.rng import derive_seed

if TYPE_CHECKING:
    from art_sensreg.training.loop import Training


def entries_of(training: Training) -> list[str]:
    """
    The entries of the history that are there when the scheduler steps.

    :param training: The run.
    :return: Their names.
    """
    entries = ["loss", "base", *(["adversarial"] if training.objective.adversary else []), *training.objective.names]
    entries += ["accuracy", "learning_rate", *(["skipped"] if training.config.on_nonfinite == "skip" else [])]
    if training.validation is not None:
        entries += ["val_loss", "val_accuracy"]
        entries += ["val_robust_accuracy"] if training.config.validation_attack is not None else []
    return [*entries, *(training.guard.watched.attacks if training.guard is not None else [])]


def judge(training: Training, record: dict[str, float]) -> None:
    """
    Validate, step the scheduler, and see whether it is time to stop.

    :param training: The run, at the end of an epoch.
    :param record: The epoch's entry of the history, to which the scores are added.
    """
    _share_buffers(training)
    state, monitor, guard = training.state, training.monitor, training.guard
    model, size = training.stepper.result, training.config.batch_size
    trained = Trained(model, training.own)
    others = training.objective.traits.sources_to_seed  # models that are random in evaluation mode draw from them
    with training.own.looked_at(), seeded(others, derive_seed(training.seed, "validation", state.epoch)):
        if training.validation is not None:
            attack = training.config.validation_attack
            data, processes = training.validation, training.processes
            record.update(validate(model, training.objective, data, size, attack, training.seed, processes))
        if guard is not None:
            for name, attack in guard.watched.attacks.items():
                data = guard.watched.data
                scores = validate(model, training.objective, data, size, attack, training.seed, training.processes)
                record[name] = scores["val_robust_accuracy"]
    if guard is not None and guard.stops_after(record, trained):
        state.stop = True
    training.schedule.after_epoch(state.epoch, record)
    if monitor is not None and monitor.stops_after(record, trained):
        state.stop = True


def best_weights(training: Training) -> list[dict[str, torch.Tensor]]:
    """
    The weights that early stopping and the guard want returned; those of the guard win.

    :param training: The run, at its end.
    :return: States of :class:`~art_sensreg.training.checkpoint.objective_state.Trained`, the last of which counts.
    """
    found = []
    if training.monitor is not None and training.monitor.weights:
        found.append(training.monitor.weights)
    if training.guard is not None and training.guard.restores:
        found.append(training.guard.weights)
    return found


def _share_buffers(training: Training) -> None:
    """The first process's running statistics count: those of its last step have not been sent round yet."""
    if training.processes.count > 1:
        average = training.stepper.average
        own = [tensor for tensor in training.own.tensors().values() if not tensor.requires_grad]
        for buffer in [*training.model.buffers(), *([] if average is None else average.module.buffers()), *own]:
            buffer.copy_(training.processes.agree(buffer))
