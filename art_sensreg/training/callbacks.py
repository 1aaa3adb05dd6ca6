"""Callbacks: the interface for the user's own code in a training run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

History = list[dict[str, float]]


@dataclass
class TrainingState:
    """
    The argument of a callback: the current state of the run.

    :param model: The model that is trained.
    :param optimizer: Its optimizer.
    :param scheduler: The learning rate scheduler, or None.
    :param nb_epochs: Number of epochs of the run.
    :param epoch: Number of the epoch, from 1; 0 before the first.
    :param step: Steps done in this epoch.
    :param total_steps: Total number of steps done.
    :param skipped: Steps that were skipped because their loss was not finite.
    :param terms: The last step's `loss`, `base` and penalties, of the whole batch, as 0-d tensors.
    :param history: One dict per finished epoch.
    :param stop: A callback sets it to end the run without an error: in `on_epoch` for good; in `on_step` it interrupts
        the epoch, and a resumed run continues there. If one process sets it, all stop.
    :param rank: Number of this process among those that train together.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: Any = None
    nb_epochs: int = 1
    epoch: int = 0
    step: int = 0
    total_steps: int = 0
    skipped: int = 0
    terms: dict[str, torch.Tensor] = field(default_factory=dict)
    history: History = field(default_factory=list)
    stop: bool = False
    rank: int = 0


class Callback:
    """
    Your own code in the training loop. Override what you need; any object with some of these methods will do.

    What `state_dict` returns (numbers, strings, tensors, lists and dicts of these) is part of every checkpoint, and is
    given back to `load_state_dict` on `resume=True`.

    Example:
    >>> from art_sensreg.training import Callback
    >>> class StopAt(Callback):
    ...     def on_epoch(self, state):
    ...         state.stop = state.history[-1]["accuracy"] > 0.99
    """

    def on_start(self, state: TrainingState) -> None:
        """Before the first step, after a checkpoint was read."""

    def on_step(self, state: TrainingState) -> None:
        """After every step."""

    def on_epoch(self, state: TrainingState) -> None:
        """After every epoch and its validation; its record is `state.history[-1]`."""

    def on_end(self, state: TrainingState) -> None:
        """After the last epoch, with the weights that the run returns. Not after an error."""

    def state_dict(self) -> dict[str, Any]:
        """The state of this callback that checkpoints should contain."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Restore what `state_dict` returned.

        :param state: That state.
        """


_METHODS = ("on_start", "on_step", "on_epoch", "on_end")


def check_callbacks(callbacks: Any) -> tuple[Callback, ...]:
    """
    Check a list of callbacks, and return it as a tuple: TypeError if an object has none of the methods of
    :class:`Callback`.
    """
    if isinstance(callbacks, (str, bytes)) or not isinstance(callbacks, Sequence):
        raise TypeError(f"`callbacks` is {callbacks!r}; expected a list of callbacks.")
    for callback in callbacks:
        if isinstance(callback, type) or not any(callable(getattr(callback, name, None)) for name in _METHODS):
            raise TypeError(
                f"`callbacks` holds {callback!r}; expected objects with some of the methods {', '.join(_METHODS)}."
            )
    return tuple(callbacks)


class CallbackList:
    """The callbacks of a run as one; each of them has some of the methods of :class:`Callback`."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = callbacks

    def __bool__(self) -> bool:
        return bool(self._callbacks)

    def call(self, moment: str, state: TrainingState) -> bool:
        """Call the method of that name of every callback that has it; tell whether any has."""
        methods = [getattr(callback, moment, None) for callback in self._callbacks]
        for method in methods:
            if method is not None:
                method(state)
        return any(method is not None for method in methods)

    def state_dict(self) -> list[dict[str, Any]]:
        """The state of each; empty for those that have none."""
        return [callback.state_dict() if hasattr(callback, "state_dict") else {} for callback in self._callbacks]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Restore what `state_dict` returned; there may be more or fewer callbacks by now."""
        for callback, state in zip(self._callbacks, states, strict=False):
            if hasattr(callback, "load_state_dict"):
                callback.load_state_dict(state)
