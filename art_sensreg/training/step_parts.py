"""What a step is divided into, and what is looked at in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from art_sensreg.objectives import Objective, Share
from art_sensreg.penalties.forward.recomputation import with_graph
from art_sensreg.training.checkpoint.objective_state import ObjectiveState
from art_sensreg.training.numerics.loss_means import divisor
from art_sensreg.training.numerics.rollback import BuffersBefore
from art_sensreg.utils.modes import eval_mode


def base_weighted(pieces: list[tuple[int, Share]], loss: Any, y: torch.Tensor) -> list[tuple[int, Share]]:
    """
    Weigh the losses of micro-batches by what they were divided by: with class weights, another number than their rows.

    :param pieces: From :func:`micro_batches`.
    :param loss: The base loss.
    :param y: The labels of the batch.
    :return: The same, if the loss is a plain mean.
    """
    divisors = [
        divisor(loss, part) for part in y[: sum(rows for rows, _ in pieces)].split([rows for rows, _ in pieces])
    ]
    if all(isinstance(number, float) for number in divisors):
        return pieces
    total, weight = sum(divisors), sum(share.weight for _, share in pieces)
    pairs = zip(pieces, divisors, strict=True)
    return [(rows, replace(share, base_weight=weight * number / total)) for (rows, share), number in pairs]


class NotFiniteError(Exception):
    """The second evaluation of a step's loss is not finite."""

    def __init__(self, culprit: str, terms: dict[str, torch.Tensor]) -> None:
        super().__init__(culprit)
        self.culprit, self.terms = culprit, terms


def micro_batches(rows: int, share: Share, pieces: int) -> list[tuple[int, Share]]:
    """
    Divide a batch into micro-batches, whose weighted terms add up to those of the batch.

    :param rows: Rows of the batch.
    :param share: What they count; the first of them have noisy copies.
    :param pieces: Number of micro-batches, at most `rows`.
    :return: Rows of each, and what they count.

    Example:
    >>> from art_sensreg.training.step_parts import micro_batches
    >>> [(rows, share.noisy_rows, share.weight) for rows, share in micro_batches(8, Share(noisy_rows=6), pieces=2)]
    [(4, None, 0.5), (4, 2, 0.5)]
    """
    if pieces == 1:
        return [(rows, share)]
    noisy = rows if share.noisy_rows is None else share.noisy_rows
    sizes = [rows // pieces + (index < rows % pieces) for index in range(pieces)]
    found, first = [], 0
    for size in sizes:
        own = min(max(noisy - first, 0), size)
        weight, noisy_weight = share.weight * size / rows, share.noisy_weight * own / max(noisy, 1)
        found.append((size, Share(None if own == size else own, weight, noisy_weight, share.sum_weight)))
        first += size
    return found


def gradient_size(parameters: Sequence[torch.Tensor]) -> torch.Tensor:
    """
    A number that is finite if all gradients are. A finite loss can have one that is not: of a root at 0, for one.

    :param parameters: What is trained.
    :return: The sum of the norms, a 0-d tensor.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    norms = torch._foreach_norm(gradients)
    return torch.stack([norm.float().to(norms[0].device) for norm in norms]).sum()


def first_nonfinite(terms: dict[str, torch.Tensor], size: torch.Tensor) -> str | None:
    """
    Find what is NaN or infinite in a step; the host waits for the device once, unless it is a term.

    :param terms: The terms of the loss, 0-d tensors, and `loss` itself.
    :param size: Size of the gradient, a 0-d tensor.
    :return: The name of a term, `loss`, `gradient`, or None.

    Example:
    >>> from art_sensreg.training.step_parts import first_nonfinite
    >>> one, nan = torch.tensor(1.0), torch.tensor(float("nan"))
    >>> first_nonfinite({"loss": one}, one), first_nonfinite({"loss": one}, nan)
    (None, 'gradient')
    >>> first_nonfinite({"loss": nan, "base": one, "jacobian": nan}, nan)
    'jacobian'
    """
    loss = terms["loss"].detach()
    loss_finite, size_finite = map(math.isfinite, torch.stack([loss, size.to(loss)]).tolist())
    if loss_finite:
        return None if size_finite else "gradient"
    names = (name for name, value in terms.items() if name != "loss" and not torch.isfinite(value))
    return next(names, "loss")


def unused_parameters(
    model: nn.Module,
    objective: Objective,
    x: torch.Tensor,
    y: torch.Tensor,
    own: ObjectiveState | None = None,
) -> Sequence[str]:
    """
    Parameters that take no part in the loss: `DistributedDataParallel` must know of them.

    :param model: The model.
    :param objective: The objective.
    :param x: Some images.
    :param y: Their labels.
    :param own: Tensors of the objective's own, or None.
    :return: Their names.
    """
    own_tensors = {} if own is None else own.tensors()
    named = [(n, p) for n, p in [*model.named_parameters(), *own_tensors.items()] if p.requires_grad and p.is_leaf]
    before = BuffersBefore([] if own is None else own.stores())
    before.take()
    try:
        with eval_mode(model), with_graph():
            loss = objective.base_loss(model(x.clone()), y)
            gradients = torch.autograd.grad(loss, [parameter for _, parameter in named], allow_unused=True)
    finally:
        before.restore()
    return [name for (name, _), gradient in zip(named, gradients, strict=True) if gradient is None]
