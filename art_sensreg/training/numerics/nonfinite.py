"""What happens when something is NaN or infinite: back to before the step, and nothing bad is ever called good."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from art_sensreg.training.numerics.rollback import BuffersBefore, finite_buffers, first_not_finite

if TYPE_CHECKING:
    from art_sensreg.training.loop import Training

logger = logging.getLogger(__name__)


class Soundness:
    """
    Keeps the buffers of before a step, and checks what a run keeps.

    :param training: The run, its model on its device.
    """

    def __init__(self, training: Training) -> None:
        self._training = training
        stores = [module._buffers for module in training.model.modules()]
        self._before = BuffersBefore([*stores, *training.own.stores()])
        self._finite = finite_buffers(training.model)

    def before_step(self) -> None:
        """Note the buffers that a forward pass may move."""
        self._before.take()

    def go_back(self) -> None:
        """The step does not count: its buffers, running statistics for one, are those of before it."""
        self._before.restore()

    def leave_out(self, culprit: str) -> None:
        """
        Deal with a step whose loss or gradient is not finite.

        :param culprit: The term.
        :raises FloatingPointError: If the run is to stop.
        """
        self.go_back()
        self.check_weights()  # weights that are NaN already are the cause, and no later step mends them
        state, config = self._training.state, self._training.config
        if config.on_nonfinite == "skip" and state.skipped < config.max_skipped:
            state.skipped += 1
            logger.warning("Step %d of epoch %d is left out: %r is not finite.", state.step, state.epoch, culprit)
            return
        limit = f" {state.skipped} steps were left out before it." if config.on_nonfinite == "skip" else ""
        raise FloatingPointError(
            f"The term {culprit!r} is {state.terms[culprit].item()} in epoch {state.epoch}, step {state.step}; "
            f"expected a finite loss.{limit} The weights are those before this step.{self._last_checkpoint()} Try a "
            "smaller learning rate, penalty weight or `max_grad_norm`."
        )

    def check_weights(self) -> None:
        """
        A finite loss can lead to weights that are not (an infinite learning rate): never store or return them.

        :raises FloatingPointError: If a weight, or a buffer that was finite, is not; of the average too.
        """
        run, state = self._training, self._training.state
        average = run.stepper.average
        named: dict[str, torch.Tensor] = {}
        for before, model in (("", run.model), ("the average of ", None if average is None else average.module)):
            if model is not None:
                named.update({f"{before}weight {name!r}": weight for name, weight in model.named_parameters()})
                buffers = {name: buffer for name, buffer in model.named_buffers() if name in self._finite}
                named.update({f"{before}buffer {name!r}": buffer for name, buffer in buffers.items()})
        named.update({f"weight {name!r} of the objective": t for name, t in run.own.trained().items()})
        bad = first_not_finite(named)
        if bad is not None:
            raise FloatingPointError(
                f"The {bad} has NaN or infinite values after epoch {state.epoch}, step {state.step}, while the loss "
                f"was finite; expected finite gradients and learning rates.{self._last_checkpoint()}"
            )

    def _last_checkpoint(self) -> str:
        checkpoints = self._training.checkpoints
        return "" if checkpoints is None else f" {checkpoints.last()}"
