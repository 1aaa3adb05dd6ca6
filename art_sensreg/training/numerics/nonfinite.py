"""NaN and infinite values: found in a step, which then does not count, and never called good in what is kept."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from art_sensreg.training.callbacks import TrainingState

logger = logging.getLogger(__name__)

GRADIENT_COSINE = "gradient_cosine"
"""The term that says how far input gradients at the start and the end of an adversary's step agree."""

Tensors = Mapping[str, torch.Tensor]


class NotFiniteError(Exception):
    """The second evaluation of a step's loss is not finite."""

    def __init__(self, culprit: str, terms: dict[str, torch.Tensor]) -> None:
        super().__init__(culprit)
        self.culprit, self.terms = culprit, terms


def gradient_size(parameters: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum of the norms of the gradients, a 0-d tensor: finite if all of them are. (That of a root at 0 is not.)"""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    norms = torch._foreach_norm(gradients)
    return torch.stack([norm.float().to(norms[0].device) for norm in norms]).sum()


def read_step(terms: dict[str, torch.Tensor], size: torch.Tensor) -> tuple[str | None, float | None]:
    """
    What is NaN or infinite in a step: a term of the loss, `loss`, `gradient` (by its size), or None; and the cosine of
    input gradients, if it is among the terms.

    The host waits for the device once, unless it is a term.
    """
    loss = terms["loss"].detach()
    compared = [terms[GRADIENT_COSINE].to(loss)] if GRADIENT_COSINE in terms else []
    found, norm, *cosines = torch.stack([loss, size.to(loss), *compared]).tolist()
    cosine = cosines[0] if cosines else None
    if math.isfinite(found):
        return None if math.isfinite(norm) else "gradient", cosine
    names = (name for name, value in terms.items() if name != "loss" and not torch.isfinite(value))
    return next(names, "loss"), cosine


def all_finite(named: Tensors) -> dict[str, bool]:
    """Whether each tensor of floating point numbers is finite throughout; the host waits for the device once."""
    numbers = {name: tensor for name, tensor in named.items() if tensor.is_floating_point() and tensor.numel()}
    if not numbers:
        return {}
    device = next(iter(numbers.values())).device
    finite = torch.stack([torch.isfinite(tensor).all().to(device) for tensor in numbers.values()])
    return dict(zip(numbers, finite.tolist(), strict=True))


class NonFiniteGuard:
    """
    What a run does about NaN and infinite values: so many steps may be left out (None: the first one ends it). Buffers
    count if they are finite when the run begins: a mask of minus infinity does not. Messages end in what
    `last_checkpoint` says.
    """

    def __init__(
        self,
        model: nn.Module,
        average: nn.Module | None,
        others: Callable[[], Tensors],
        max_skipped: int | None,
        last_checkpoint: Callable[[], str],
    ) -> None:
        self._models = {"": model, "the average of ": average}
        self._others, self._max_skipped, self._last_checkpoint = others, max_skipped, last_checkpoint
        self._buffers = {name for name, finite in all_finite(dict(model.named_buffers())).items() if finite}

    def leave_out(self, culprit: str, state: TrainingState) -> None:
        """
        Count a step whose term `culprit` is not finite; its buffers are restored already. FloatingPointError if the run
        is to stop.
        """
        self.check_weights(state)  # weights that are NaN already are the cause, and no later step mends them
        if self._max_skipped is not None and state.skipped < self._max_skipped:
            state.skipped += 1
            logger.warning("Step %d of epoch %d is skipped: %r is not finite.", state.step, state.epoch, culprit)
            return
        limit = "" if self._max_skipped is None else f" {state.skipped} steps were skipped before it."
        raise FloatingPointError(
            f"The term {culprit!r} is {state.terms[culprit].item()} in epoch {state.epoch}, step {state.step}; "
            f"expected a finite loss.{limit} The weights are those before this step.{self._last_checkpoint()} Try a "
            "smaller learning rate, penalty weight or `max_grad_norm`."
        )

    def check_weights(self, state: TrainingState) -> None:
        """
        A finite loss can lead to weights that are not (an infinite learning rate): never store or return them.
        FloatingPointError if a weight, or a buffer that was finite, is not; of the average too.
        """
        named: dict[str, torch.Tensor] = {}
        for prefix, model in self._models.items():
            if model is not None:
                named.update({f"{prefix}weight {name!r}": weight for name, weight in model.named_parameters()})
                buffers = {name: buffer for name, buffer in model.named_buffers() if name in self._buffers}
                named.update({f"{prefix}buffer {name!r}": buffer for name, buffer in buffers.items()})
        named.update({f"weight {name!r} of the objective": tensor for name, tensor in self._others().items()})
        bad = next((name for name, finite in all_finite(named).items() if not finite), None)
        if bad is not None:
            raise FloatingPointError(
                f"The {bad} has NaN or infinite values after epoch {state.epoch}, step {state.step}, while the loss "
                f"was finite; expected finite gradients and learning rates.{self._last_checkpoint()}"
            )
