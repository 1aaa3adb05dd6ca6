"""Projected gradient ascent as a function, and the surroundings that it runs in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from art_sensreg.attacks.base.losses import LogitsLoss, margin
from art_sensreg.attacks.base.norms import Ball
from art_sensreg.utils import check_choice

# Of a batch of perturbed images: the loss of each, and the logits that tell whether it is misclassified.
LossFunction = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]

SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True)
class Ascent:
    """
    What :func:`ascend` found.

    :param perturbed: For each image the most misclassified one that was met, `(n, ...)`.
    :param margin: Its margin: above 0 where misclassified, `(n,)`.
    :param last_margin: The margin of the last iterate, `(n,)`.
    :param losses: Mean loss at the start and after each step, `(steps + 1,)`.
    :param margins: Largest margin so far of each image, at the start and after each step, `(steps + 1, n)`.
    :param detached: Whether autograd saw no way from the images to the loss, so that no step was made.
    """

    perturbed: torch.Tensor
    margin: torch.Tensor
    last_margin: torch.Tensor
    losses: torch.Tensor
    margins: torch.Tensor
    detached: bool = False


def loss_on_logits(model: nn.Module, y: torch.Tensor, loss: LogitsLoss) -> LossFunction:
    """
    A loss of logits as a loss of images.

    :param model: Module from images to logits.
    :param y: Class indices, `(n,)`.
    :param loss: Loss of logits and labels.
    :return: Function of perturbed images, to the loss of each and the logits.

    Example:
    >>> from art_sensreg.attacks.base.ascent import loss_on_logits
    >>> loss_on_logits(nn.Identity(), torch.tensor([0]), margin)(torch.tensor([[3.0, 1.0]]))[0]
    tensor([-2.])
    """

    def loss_fn(perturbed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = model(perturbed)
        return loss(logits, y), logits

    return loss_fn


def ascend(
    loss_fn: LossFunction,
    x: torch.Tensor,
    y: torch.Tensor,
    ball: Ball,
    start: torch.Tensor,
    eps_step: float,
    max_iter: int,
    schedule: str = "constant",
) -> Ascent:
    """
    Maximise a loss inside a ball by steps of steepest ascent; every iterate is looked at, not only the last.

    | Paper link: https://arxiv.org/abs/1706.06083 (Madry et al. 2018)

    :param loss_fn: Loss and logits of a batch of perturbed images; rows must not see each other.
    :param x: Images, `(n, ...)`.
    :param y: Class indices, `(n,)`.
    :param ball: What is allowed.
    :param start: First iterate.
    :param eps_step: Size of a step, in the units of the images.
    :param max_iter: Number of steps.
    :param schedule: `constant`, or `cosine`: steps shrink to a hundredth of the first.
    :return: What was found.

    Example:
    >>> from art_sensreg.attacks.base.ascent import ascend
    >>> x, y = torch.tensor([[0.6, 0.5]]), torch.tensor([0])
    >>> found = ascend(lambda u: (margin(u, y), u), x, y, Ball("linf", 0.1, 0.0, 1.0), x, eps_step=0.05, max_iter=3)
    >>> found.perturbed, found.margin > 0
    (tensor([[0.5000, 0.6000]]), tensor([True]))
    """
    check_choice("schedule", schedule, SCHEDULES)
    current, best = ball.project(x, start), x
    best_margin = torch.full((len(x),), -float("inf"), device=x.device, dtype=x.dtype)
    last = best_margin
    detached = False
    losses: list[torch.Tensor] = []
    margins: list[torch.Tensor] = []
    for step in range(max_iter + 1):
        gradient, loss, logits = _value_and_grad(loss_fn, current, gradient=step < max_iter)
        detached = detached or (gradient is None and step < max_iter)
        last = _finite_margin(logits, y, x.dtype)
        better = last > best_margin
        # And not by `best[better]`, for which the host would wait.
        best = torch.where(better.view(-1, *[1] * (x.ndim - 1)), current, best)
        best_margin = torch.maximum(last, best_margin)
        losses.append(loss.nan_to_num().mean())
        margins.append(best_margin)
        if gradient is not None:
            shrink = 1.0 if schedule == "constant" else 0.01 + 0.495 * (1 + np.cos(np.pi * step / max_iter))
            current = ball.project(x, current + shrink * eps_step * ball.steepest(ball.inward(current, gradient)))
    return Ascent(best, best_margin, last, torch.stack(losses), torch.stack(margins), detached)


def value_and_grad(
    loss_fn: LossFunction, x: torch.Tensor, gradient: bool = True
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Gradient of the loss by each image.

    :param loss_fn: Loss and logits of a batch.
    :param x: Batch, `(n, ...)`.
    :param gradient: Whether the gradient is asked for; zeros if not.
    :return: Gradient (zeros where autograd sees no way, or where it is not finite), loss `(n,)`, and logits.

    Example:
    >>> from art_sensreg.attacks.base.ascent import value_and_grad
    >>> value_and_grad(lambda x: (x.pow(2).sum(1), x), torch.tensor([[3.0]]))[0]
    tensor([[6.]])
    """
    found, loss, logits = _value_and_grad(loss_fn, x, gradient)
    return torch.zeros_like(x) if found is None else found, loss, logits


def _value_and_grad(
    loss_fn: LossFunction, x: torch.Tensor, gradient: bool
) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """The same with None for a gradient that autograd sees no way to, or that was not asked for."""
    leaf = x.detach().clone().requires_grad_(gradient)
    with torch.set_grad_enabled(gradient):
        loss, logits = loss_fn(leaf)
        found = None
        if gradient and loss.requires_grad:
            (found,) = torch.autograd.grad(loss.sum(), leaf, allow_unused=True)
    found = None if found is None else found.detach().nan_to_num(0.0, 0.0, 0.0)
    return found, loss.detach(), logits.detach()


def margin_of(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """
    Margin of each image.

    :param model: Module from images to logits.
    :param x: Images, `(n, ...)`.
    :param y: Class indices, `(n,)`.
    :return: Above 0 where misclassified, minus infinity where it is NaN; `(n,)`, in the type of the images.

    Example:
    >>> from art_sensreg.attacks.base.ascent import margin_of
    >>> margin_of(nn.Identity(), torch.tensor([[3.0, 1.0]]), torch.tensor([0]))
    tensor([-2.])
    """
    with torch.no_grad():
        return _finite_margin(model(x), y, x.dtype)


def _finite_margin(logits: torch.Tensor, y: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    return margin(logits, y).to(kind).nan_to_num(nan=-float("inf"))
