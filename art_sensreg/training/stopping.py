"""The end of an epoch: its scores, the scheduler, and whether it is time to stop."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from art_sensreg.training.checkpoint.objective_state import ObjectiveState, TrainedState
from art_sensreg.training.config import TrainingConfig
from art_sensreg.training.numerics.ema import WeightAverage
from art_sensreg.training.numerics.nonfinite import GRADIENT_COSINE
from art_sensreg.training.run import Progress, RunSetup
from art_sensreg.training.schedules.stepping import Schedule
from art_sensreg.training.validation import Scorer
from art_sensreg.utils.model_rng import seeded
from art_sensreg.utils.rng import derive_seed


class EarlyStopping:
    """
    Watches one entry of the history, of which lower is better if its name ends in `loss`: when to stop (after
    `patience` epochs without a better value, if given), and which weights were best (kept if they are to be restored).
    """

    def __init__(self, entry: str, patience: int | None, restore_best: bool) -> None:
        self.entry, self.patience, self.restore_best = entry, patience, restore_best
        self.best = math.inf if entry.endswith("loss") else -math.inf
        self.waited = 0
        self.weights: dict[str, torch.Tensor] = {}

    def stops_after(self, record: dict[str, float], model: nn.Module | TrainedState) -> bool:
        """Take note of an epoch's record and of the model as validated; tell whether training should stop."""
        value = record[self.entry]
        if value < self.best if self.entry.endswith("loss") else value > self.best:
            self.best, self.waited = value, 0
            if self.restore_best:
                self.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        else:
            self.waited += 1
        return self.exhausted

    @property
    def exhausted(self) -> bool:
        """Whether there were as many epochs without a better value as patience allows."""
        return self.patience is not None and self.waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """The best value so far, the epochs since, and the best weights."""
        return {"best": self.best, "waited": self.waited, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.best, self.waited, self.weights = state["best"], state["waited"], state["weights"]


def early_stopping(config: TrainingConfig, validated: bool) -> EarlyStopping | None:
    """
    The early stopping that a config asks for, or None if there is nothing to watch. ValueError if what is to be watched
    will not be there.
    """
    if config.validation_attack is not None and not validated:
        raise ValueError("`validation_attack` is given and `validation_data` is None; expected data to attack.")
    if config.patience is None and not config.restore_best:
        return None
    entry = config.monitor or ("val_robust_accuracy" if config.validation_attack else "val_accuracy")
    if entry.startswith("val_") and not validated:
        raise ValueError(f"`monitor` is {entry!r} and `validation_data` is None; expected validation data.")
    if entry == "val_robust_accuracy" and config.validation_attack is None:
        raise ValueError(f"`monitor` is {entry!r} and `validation_attack` is None; expected a ValidationAttack.")
    return EarlyStopping(entry, config.patience, config.restore_best)


class EpochEnd:
    """
    Scores an epoch, steps the scheduler, and tells whether it is time to stop. ValueError if what scheduler or early
    stopping watch will not be there.
    """

    def __init__(self, setup: RunSetup, objective_state: ObjectiveState) -> None:
        self._setup, self._objective_state = setup, objective_state
        self.schedule = Schedule(setup.scheduler, setup.config, _entries(setup))
        self.early_stopping = early_stopping(setup.config, setup.validation is not None)

    def __call__(self, record: dict[str, float], average: WeightAverage | None, progress: Progress) -> bool:
        """
        Judge an epoch, by the moving average of the weights if there is one: add the scores to its record, and tell
        whether training should stop.
        """
        self._share_buffers(average)
        guard, stops, epoch = self._setup.guard, False, progress.state.epoch
        model = self._setup.model if average is None else average.module
        self._score(record, model, progress.seed, epoch)
        trained = TrainedState(model, self._objective_state)
        if guard is not None:
            stops = guard.stops_after(record, trained, rising=self._setup.objective.eps_share < 1)
        self.schedule.after_epoch(epoch, record)
        if self.early_stopping is not None:
            stops = self.early_stopping.stops_after(record, trained) or stops
        return stops

    def _score(self, record: dict[str, float], model: nn.Module, seed: int, epoch: int) -> None:
        setup = self._setup
        score = Scorer(setup.objective, setup.config.batch_size, seed, setup.processes)
        others = setup.objective.plan.sources_to_seed  # models that are random in evaluation mode draw from them
        with self._objective_state.unchanged(), seeded(others, derive_seed(seed, "validation", epoch)):
            if setup.validation is not None:
                record.update(score(model, setup.validation, setup.config.validation_attack))
            if setup.guard is not None:
                watched = setup.guard.watched
                for name, attack in watched.attacks.items():
                    record[name] = score(model, watched.data, attack)["val_robust_accuracy"]

    def restore_best(self) -> None:
        """At the end of the run: the weights that early stopping wants, or rather those that the guard wants."""
        trained = TrainedState(self._setup.model, self._objective_state)
        if self.early_stopping is not None and self.early_stopping.weights:
            trained.load_state_dict(self.early_stopping.weights)
        if self._setup.guard is not None and self._setup.guard.restores:
            trained.load_state_dict(self._setup.guard.weights)

    def _share_buffers(self, average: WeightAverage | None) -> None:
        """The first process's running statistics count: those of its last step have not been sent to the others yet."""
        processes = self._setup.processes
        if processes.count > 1:
            own = [tensor for tensor in self._objective_state.tensors().values() if not tensor.requires_grad]
            averaged = [] if average is None else average.module.buffers()
            for buffer in [*self._setup.model.buffers(), *averaged, *own]:
                buffer.copy_(processes.agree(buffer))


def _entries(setup: RunSetup) -> list[str]:
    """The entries of the history that are there when the scheduler steps."""
    config, objective = setup.config, setup.objective
    entries = ["loss", "base", *(["adversarial"] if objective.adversary else []), *objective.names]
    entries += ["accuracy", "learning_rate", *(["skipped"] if config.on_nonfinite == "skip" else [])]
    if setup.validation is not None:
        entries += ["val_loss", "val_accuracy"]
        entries += ["val_robust_accuracy"] if config.validation_attack is not None else []
    if setup.guard is not None:
        entries += [*([GRADIENT_COSINE] if setup.guard.predicts else []), *setup.guard.watched.attacks]
    return entries
