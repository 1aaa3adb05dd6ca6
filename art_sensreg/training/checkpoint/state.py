"""What a training run is made of between two steps: named parts, collected for a checkpoint and put back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from art_sensreg.adversaries.visits import PerturbationMemory
from art_sensreg.training.checkpoint.loading import check_model_state, check_optimizer_state
from art_sensreg.training.checkpoint.objective_state import ObjectiveState, TrainedState
from art_sensreg.training.checkpoint.plain_state import load_values, values_of
from art_sensreg.training.optimizers import inner_optimizers, load_inner_states, match_layout
from art_sensreg.utils.rng import random_state, restore_random_state

_WHERE = "The checkpoint"


class Stateful(Protocol):
    """A part of a run: its state is plain values and tensors in dicts and lists."""

    def state_dict(self) -> Any:
        """The state."""
        ...

    def load_state_dict(self, state: Any, /) -> Any:
        """Restore what `state_dict` returned."""
        ...


@dataclass(frozen=True, kw_only=True)
class RunState:
    """
    The parts of a run that the rest of it depends on, as one; None where the run has no such part. Progress (position,
    history and so on) gets entries of its own in the checkpoint.
    """

    progress: Stateful
    model: nn.Module
    average: nn.Module | None
    objective: ObjectiveState
    optimizer: torch.optim.Optimizer
    scheduler: Stateful | None
    schedule: Stateful
    scaler: Stateful
    early_stopping: Stateful | None
    guard: Stateful | None
    callbacks: Stateful
    batches: Stateful
    perturbations: PerturbationMemory | None = None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds, the random states included."""
        return {
            **self.progress.state_dict(),
            "model": self.model.state_dict(),
            "plain values": values_of(self._attributes()),
            "frozen": [name for name, weight in self.model.named_parameters() if not weight.requires_grad],
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "inner optimizers": {n: inner.state_dict() for n, inner in inner_optimizers(self.optimizer).items()},
            "scheduler": _state_of(self.scheduler),
            "schedule": self.schedule.state_dict(),
            "stepper": {"scaler": self.scaler.state_dict(), "average": _state_of(self.average)},
            "monitor": _state_of(self.early_stopping),
            "guard": _state_of(self.guard),
            "callbacks": self.callbacks.state_dict(),
            "batches": self.batches.state_dict(),
            "perturbations": _state_of(self.perturbations),
            "random": random_state(),
        }

    def load_state_dict(self, stored: dict[str, Any]) -> None:
        """
        Continue a run, but for the random states: see :meth:`restore_random_state`. ValueError if that run has gone
        further than this one is to go, or a tensor does not belong to this run; nothing has been changed then.
        """
        self._check(stored)
        self.progress.load_state_dict(stored)
        self.model.load_state_dict(stored["model"])
        load_values(self._attributes(), stored["plain values"])
        for name, parameter in self.model.named_parameters():  # a callback may have frozen some on the way
            parameter.requires_grad_(name not in stored["frozen"])
        self.objective.load_state_dict(stored["objective"])
        self.optimizer.load_state_dict(stored["optimizer"])
        load_inner_states(self.optimizer, stored["inner optimizers"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(stored["scheduler"])
            self.schedule.load_state_dict(stored["schedule"])
        self.scaler.load_state_dict(stored["stepper"]["scaler"])
        _load(self.average, stored["stepper"]["average"])
        _load(self.early_stopping, stored["monitor"])
        _load(self.guard, stored.get("guard"))
        self.callbacks.load_state_dict(stored["callbacks"])
        match_layout(self.optimizer)
        self.batches.load_state_dict(stored["batches"])
        _load(self.perturbations, stored.get("perturbations"))

    @staticmethod
    def restore_random_state(stored: dict[str, Any]) -> None:
        """Put the global random states back, after the user's own code has seen the start of the run."""
        restore_random_state(stored["random"])

    def _attributes(self) -> list[tuple[str, dict[str, Any]]]:
        return [(name, vars(module)) for name, module in self.model.named_modules()]

    def _check(self, stored: dict[str, Any]) -> None:
        """Every tensor before any is used; shapes of the optimizer's averages nobody else compares."""
        check_model_state(self.model, stored["model"], _WHERE)
        self.objective.check_tensors(stored["objective"]["tensors"])
        check_optimizer_state(self.optimizer, stored["optimizer"], _WHERE)
        for name, inner in inner_optimizers(self.optimizer).items():
            if name in stored["inner optimizers"]:
                check_optimizer_state(inner, stored["inner optimizers"][name], _WHERE)
        if self.average is not None and stored["stepper"]["average"] is not None:
            check_model_state(self.average, stored["stepper"]["average"], "The average in the checkpoint")
        if self.perturbations is not None:
            self.perturbations.check(stored["perturbations"])
        for name in ("monitor", "guard"):
            weights = (stored.get(name) or {}).get("weights")
            if weights:
                TrainedState(self.model, self.objective).check(weights, "The best epoch in the checkpoint")
        for name, value in stored["stepper"]["scaler"].items():
            if not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ValueError(f"{_WHERE} holds {name!r} of the gradient scaler as {value!r}; expected a number.")


def _state_of(part: Stateful | None) -> Any:
    return None if part is None else part.state_dict()


def _load(part: Stateful | None, state: Any) -> None:
    if part is not None and state is not None:
        part.load_state_dict(state)
