"""Gradients of a classification loss with respect to the input, which can be differentiated once more."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import nn
from torch.nn import functional

from art_sensreg.penalties.forward.batch_norm import batch_norms, uses_batch_statistics
from art_sensreg.penalties.forward.branches import forward_branches
from art_sensreg.penalties.forward.plan import ForwardPlan
from art_sensreg.utils.precision import at_least_float32

_PLAN = ForwardPlan(updates_state=False)


def loss_gradients(
    model: nn.Module, x: torch.Tensor, loss_fn: Callable[[torch.Tensor], torch.Tensor], create_graph: bool = False
) -> torch.Tensor:
    """
    Gradients of a loss of logits, a sum over the examples, with respect to a batch `(n, ...)`; in float32 at least.

    The model keeps its mode; BatchNorm's running statistics do not move, and in training mode those of the batch count
    as constants, so that a gradient is that of its own example. A model that averages draws of its own (it has a
    `single_draws`) gives single ones.
    """
    single = getattr(model, "single_draws", nullcontext)
    coupled = uses_batch_statistics(batch_norms(model))
    with torch.enable_grad(), single(), torch.autocast(x.device.type, enabled=False):
        leaf = x.detach().requires_grad_(True)
        passed = forward_branches(model, [leaf], plan=_PLAN, input_gradient=coupled)
        logits = at_least_float32(passed.logits[0])
        if logits.ndim < 2 or logits.shape[1] < 2:
            raise ValueError(
                "`model` returns one output; a penalty on gradients of the loss expects two logits or more."
            )
        # Only a gradient with a graph takes the statistics for constants.
        with passed.gradient.stopped():
            graph = create_graph or coupled
            (gradient,) = torch.autograd.grad(loss_fn(logits), leaf, create_graph=graph, materialize_grads=True)
    return at_least_float32(gradient if create_graph else gradient.detach())


def cross_entropy(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The sum over the examples; `y` are class indices or class probabilities."""
    y = y.long() if y.ndim == 1 else y.to(logits.dtype)
    return functional.cross_entropy(logits, y, reduction="sum")


def direction_loss(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """
    A loss whose input gradients have the directions of the cross-entropy's, summed over the examples.

    For class indices it is `m = log sum_{c != y} exp(z_c) - z_y`, of which the cross-entropy is `log(1 + exp(m))`: its
    gradient stays exact where the model is so confident that the cross-entropy's is made of rounding errors. For
    probabilities that are not one-hot it is the cross-entropy.
    """
    if y.ndim > 1 and not bool(((y == 0) | (y == 1)).all()):
        return cross_entropy(logits, y)
    own = (y.argmax(1) if y.ndim > 1 else y.long())[:, None]
    others = logits.scatter(1, own, -torch.inf).logsumexp(1)
    return (others - logits.gather(1, own)[:, 0]).sum()
