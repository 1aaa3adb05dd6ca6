"""A training run: its inputs, and its progress."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from art_sensreg.objectives import Objective
from art_sensreg.training.batches import Batches, HeldOut
from art_sensreg.training.callbacks import TrainingState
from art_sensreg.training.checkpoint.run import Checkpoints
from art_sensreg.training.config import TrainingConfig
from art_sensreg.training.distributed import Processes
from art_sensreg.training.metrics import EpochSums
from art_sensreg.training.overfitting import OverfittingGuard


@dataclass(frozen=True, kw_only=True)
class RunSetup:
    """
    What a training run is given.

    :param model: Module from `(n, ...)` inputs to `(n, C)` logits; trained in place.
    :param objective: What each step minimises; already prepared for the model.
    :param batches: The training data.
    :param optimizer: Optimizer of the model's parameters.
    :param config: Settings.
    :param scheduler: Any torch learning rate scheduler of the optimizer, or None.
    :param validation: Images and labels that are scored after every epoch, or None.
    :param guard: Watches for catastrophic overfitting, or None.
    :param checkpoints: Where checkpoints go, or None.
    :param processes: Those that train together.
    :param training_mode: Whether the model trains in training mode; False keeps it in evaluation mode, as BatchNorm
        layers whose parameters all are frozen always are.
    :param verbose: Whether a progress bar is shown.
    """

    model: nn.Module
    objective: Objective
    batches: Batches
    optimizer: torch.optim.Optimizer
    config: TrainingConfig
    scheduler: Any = None
    validation: HeldOut | None = None
    guard: OverfittingGuard | None = None
    checkpoints: Checkpoints | None = None
    processes: Processes = Processes()  # noqa: RUF009 - frozen
    training_mode: bool = True
    verbose: bool = False

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next((parameter.device for parameter in self.model.parameters()), torch.device("cpu"))


class Progress:
    """Where a run stands: what callbacks see of it, its seed, and the sums over the steps of the present epoch."""

    def __init__(self, state: TrainingState, seed: int, sums: EpochSums) -> None:
        self.state, self.seed, self.sums = state, seed, sums
        self.learning_rate = 0.0  # of the first parameter group, at the start of the epoch
        self.inside = False  # whether an epoch has begun and not ended
        self._nb_epochs = state.nb_epochs

    @property
    def epochs_done(self) -> int:
        """How many epochs are over."""
        return self.state.epoch - self.inside

    def begin_epoch(self) -> None:
        """Begin the next epoch; nothing happens inside of one that a resumed run goes on with."""
        if not self.inside:
            self.state.epoch, self.state.step, self.inside = self.state.epoch + 1, 0, True
            self.learning_rate = float(self.state.optimizer.param_groups[0]["lr"])
            self.sums.reset()

    def state_dict(self) -> dict[str, Any]:
        """Position, history, and the sums of the present epoch."""
        state = self.state
        return {
            "seed": self.seed,
            "epoch": state.epoch,
            "step": state.step,
            "inside": self.inside,
            "total_steps": state.total_steps,
            "skipped": state.skipped,
            "nb_epochs": self._nb_epochs,
            "stop": state.stop and not self.inside,  # a stop inside an epoch breaks off a run that goes on later
            "rate": self.learning_rate,
            "sums": self.sums.state_dict(),
            "history": state.history,
        }

    def load_state_dict(self, stored: dict[str, Any]) -> None:
        """
        Restore what `state_dict` returned. ValueError if that run has gone further than this one is to go; nothing
        has been changed then.
        """
        if stored["epoch"] - stored["inside"] > self._nb_epochs:
            raise ValueError(f"`nb_epochs` is {self._nb_epochs}; the checkpoint has done {stored['epoch']} epochs.")
        state = self.state
        state.epoch, state.step = stored["epoch"], stored["step"]
        state.total_steps, state.skipped = stored["total_steps"], stored["skipped"]
        state.history[:] = stored["history"]
        state.stop = stored["stop"] and self._nb_epochs <= stored["nb_epochs"]
        self.seed, self.inside, self.learning_rate = stored["seed"], stored["inside"], stored["rate"]
        self.sums.load_state_dict(stored["sums"])
