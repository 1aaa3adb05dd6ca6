"""Projected gradient ascent as a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from art_sensreg.attacks.base.losses import LogitsLoss, margin
from art_sensreg.attacks.base.norms import Ball, per_example
from art_sensreg.utils import check_choice

# From a batch of perturbed images to the loss of each, and the logits that tell whether it is misclassified.
LossFunction = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]

SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True, kw_only=True)
class Steps:
    """
    The steps of an ascent.

    :param eps_step: Size of the first step, in the units of the images.
    :param max_iter: Number of steps.
    :param schedule: `constant`, or `cosine`: steps shrink to a hundredth of the first.
    :raises ValueError: If the schedule is neither.
    """

    eps_step: float
    max_iter: int
    schedule: str = "constant"

    def __post_init__(self) -> None:
        check_choice("schedule", self.schedule, SCHEDULES)

    def size(self, step: int) -> float:
        """Size of a step, counted from 0."""
        if self.schedule == "constant":
            return self.eps_step
        return float(self.eps_step * (0.01 + 0.495 * (1 + np.cos(np.pi * step / self.max_iter))))


@dataclass(frozen=True)
class AscentResult:
    """
    The result of :func:`ascend`.

    :param perturbed: For each image the iterate with the largest margin, `(n, ...)`.
    :param margin: That margin: above 0 where misclassified, `(n,)`.
    :param last_margin: The margin of the last iterate, `(n,)`.
    :param losses: Mean loss at the start and after each step, `(steps + 1,)`.
    :param margins: Largest margin so far of each image, at the start and after each step, `(steps + 1, n)`.
    :param detached: Whether autograd found no path from the images to the loss, so that no step was made.
    """

    perturbed: torch.Tensor
    margin: torch.Tensor
    last_margin: torch.Tensor
    losses: torch.Tensor
    margins: torch.Tensor
    detached: bool = False


def loss_on_logits(model: nn.Module, y: torch.Tensor, loss: LogitsLoss) -> LossFunction:
    """Turn a loss of logits and labels into a loss of images."""

    def loss_fn(perturbed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = model(perturbed)
        return loss(logits, y), logits

    return loss_fn


def ascend(
    loss_fn: LossFunction, x: torch.Tensor, y: torch.Tensor, ball: Ball, start: torch.Tensor, steps: Steps
) -> AscentResult:
    """
    Maximise a loss inside a ball by steepest ascent; every iterate counts, not only the last.

    | Paper link: https://arxiv.org/abs/1706.06083 (Madry et al. 2018)

    :param loss_fn: Loss and logits of a batch of perturbed images; the examples of a batch must not affect each other.
    :param x: Images, `(n, ...)`.
    :param y: Class indices, `(n,)`.
    :param ball: The perturbations allowed.
    :param start: First iterate.
    :param steps: Number and sizes of the steps.
    :return: What was found.

    Example:
    >>> from art_sensreg.attacks.base.ascent import Steps, ascend
    >>> x, y = torch.tensor([[0.6, 0.5]]), torch.tensor([0])
    >>> ball, steps = Ball("linf", 0.1, 0.0, 1.0), Steps(eps_step=0.05, max_iter=3)
    >>> found = ascend(lambda u: (margin(u, y), u), x, y, ball, x, steps)
    >>> found.perturbed, found.margin > 0
    (tensor([[0.5000, 0.6000]]), tensor([True]))
    """
    current, best = ball.project(x, start), x
    best_margin = torch.full((len(x),), -float("inf"), device=x.device, dtype=x.dtype)
    last = best_margin
    detached = False
    losses: list[torch.Tensor] = []
    margins: list[torch.Tensor] = []
    for step in range(steps.max_iter + 1):
        gradient, loss, logits = _value_and_grad(loss_fn, current, gradient=step < steps.max_iter)
        detached = detached or (gradient is None and step < steps.max_iter)
        last = _finite_margin(logits, y, x.dtype)
        # Not `best[better]`, which would make the host wait for the device.
        best = torch.where(per_example(last > best_margin, x), current, best)
        best_margin = torch.maximum(last, best_margin)
        losses.append(loss.nan_to_num().mean())
        margins.append(best_margin)
        if gradient is not None:
            current = ball.project(x, current + steps.size(step) * ball.steepest(ball.inward(current, gradient)))
    return AscentResult(best, best_margin, last, torch.stack(losses), torch.stack(margins), detached)


def value_and_grad(loss_fn: LossFunction, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Input gradient `(n, ...)` of a batch (zeros where the loss does not depend on it), loss `(n,)` and logits."""
    found, loss, logits = _value_and_grad(loss_fn, x, gradient=True)
    return torch.zeros_like(x) if found is None else found, loss, logits


def _value_and_grad(
    loss_fn: LossFunction, x: torch.Tensor, gradient: bool
) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """The same, with None for a gradient that does not exist or is not wanted; non-finite entries become 0."""
    leaf = x.detach().clone().requires_grad_(gradient)
    with torch.set_grad_enabled(gradient):
        loss, logits = loss_fn(leaf)
        found = None
        if gradient and loss.requires_grad:
            (found,) = torch.autograd.grad(loss.sum(), leaf, allow_unused=True)
    found = None if found is None else found.detach().nan_to_num(0.0, 0.0, 0.0)
    return found, loss.detach(), logits.detach()


def margin_of(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Margin of each image `(n,)`: above 0 where misclassified, minus infinity where it is NaN."""
    with torch.no_grad():
        return _finite_margin(model(x), y, x.dtype)


def _finite_margin(logits: torch.Tensor, y: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    return margin(logits, y).to(kind).nan_to_num(nan=-float("inf"))
