"""The inner maximisation of training: a few projected gradient steps on a loss, in evaluation mode and float32."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from art_sensreg.penalties.forward.recomputation import with_graph
from art_sensreg.utils import outside_inference_mode
from art_sensreg.utils.autograd import Entry
from art_sensreg.utils.modes import eval_mode
from art_sensreg.utils.norms import norm_name

ClipValues = tuple[torch.Tensor, torch.Tensor]
NORMS = ("linf", "l2")


def inside_ball(
    x: torch.Tensor, perturbed: torch.Tensor, eps: float, norm: str = "linf", clip_values: ClipValues | None = None
) -> torch.Tensor:
    """Bring perturbed inputs back into the ball around the clean ones, and into the range of inputs."""
    delta = perturbed - x
    if norm_name(norm, NORMS) == "linf":
        delta = delta.clamp(-eps, eps)
    else:
        size = delta.flatten(1).norm(dim=1).clamp_min(eps)
        delta = delta * (eps / size).view(-1, *[1] * (delta.ndim - 1))
    return x + delta if clip_values is None else (x + delta).clamp(*clip_values)


@dataclass(frozen=True, kw_only=True)
class Ascent:
    """
    How a loss is maximised over the ball around each input.

    :param eps: Radius, in input units.
    :param eps_step: Size of a step.
    :param max_iter: Number of steps.
    :param norm: `linf` (steps along the sign of the gradient) or `l2`.
    :param clip_values: Input range as two broadcastable tensors, or None.
    :param averaged: Whether a model that averages draws of its own (it has a `single_draws`) does so here; training
        takes a single draw for each step.
    """

    eps: float
    eps_step: float
    max_iter: int
    norm: str = "linf"
    clip_values: ClipValues | None = None
    averaged: bool = False

    def project(self, x: torch.Tensor, perturbed: torch.Tensor) -> torch.Tensor:
        """Bring perturbed inputs back into the ball around the clean ones, and into the range of inputs."""
        return inside_ball(x, perturbed, self.eps, self.norm, self.clip_values)

    def move(self, x: torch.Tensor, perturbed: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """One step along a gradient that was taken at the perturbed inputs, and back into the ball."""
        if norm_name(self.norm, NORMS) == "linf":
            direction = gradient.sign()
        else:
            flat = gradient.flatten(1)
            # Of a confident row, in a mean over the batch, even the length of the gradient may count as zero.
            flat = flat / flat.abs().amax(1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)
            direction = nn.functional.normalize(flat, dim=1).view_as(gradient)
        return self.project(x, perturbed + self.eps_step * direction)


@outside_inference_mode
def inner_ascent(
    model: nn.Module,
    loss_fn: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    start: torch.Tensor,
    ascent: Ascent,
) -> torch.Tensor:
    """
    Maximise a loss of logits over the ball around each input.

    The model is in evaluation mode, so that BatchNorm's statistics neither move nor couple the examples; no gradient
    with respect to a weight is taken; autocast is off, because the first steps differ by less than half precision can
    tell.

    | Paper link: https://arxiv.org/abs/1706.06083 (Madry et al. 2018, equation 2 and section 3.1)

    :param model: Module from `(n, ...)` inputs to `(n, C)` logits; it keeps its mode.
    :param loss_fn: Function of the logits, to a 0-d tensor in which the examples do not mix.
    :param x: Clean inputs, `(n, ...)`.
    :param start: Where to start, same shape; brought into the ball first.
    :param ascent: Ball and steps.
    :return: Perturbed inputs, `(n, ...)`, without a graph.

    Example:
    >>> from art_sensreg.penalties.forward.inner_ascent import Ascent, inner_ascent
    >>> x, ascent = torch.zeros(1, 2), Ascent(eps=0.5, eps_step=0.25, max_iter=4)
    >>> inner_ascent(nn.Identity(), lambda z: (z[:, 0] - z[:, 1]).sum(), x, x, ascent)
    tensor([[ 0.5000, -0.5000]])
    """
    x = x.detach()
    perturbed = ascent.project(x, start.detach())
    draws = nullcontext() if ascent.averaged else _single_draws(model)
    with eval_mode(model), draws, torch.autocast(x.device.type, enabled=False), with_graph():
        for _ in range(ascent.max_iter):
            perturbed = ascent.move(x, perturbed, _gradient(model, loss_fn, perturbed))
    return perturbed


def evaluated(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Logits in evaluation mode, in float32, without a graph; the model keeps its mode."""
    with eval_mode(model), _single_draws(model), torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        logits: torch.Tensor = model(x.clone())
    return logits


def _single_draws(model: nn.Module) -> AbstractContextManager[None]:
    context: AbstractContextManager[None] = getattr(model, "single_draws", nullcontext)()
    return context


def _gradient(model: nn.Module, loss_fn: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    leaf = x.detach().requires_grad_(True)
    with torch.enable_grad():
        entry = Entry.of(leaf, leaf.clone())  # a copy: the model may work in place
        loss = loss_fn(model(entry.given))
    return gradient_at(entry, loss)


def gradient_at(images: Entry, loss: torch.Tensor, retain_graph: bool = False) -> torch.Tensor:
    """The gradient of a loss with respect to images; ValueError if the model cuts it, TypeError if it is not one."""
    if loss.ndim:
        raise TypeError(
            f"The loss is a tensor of shape {tuple(loss.shape)}; expected a 0-d tensor, as with reduction='mean'."
        )
    found = images.gradient(loss, retain_graph)
    if found is None:
        raise ValueError(
            "`model` cuts the gradient: autograd finds no path from the images to the loss that the perturbation "
            "should raise; expected operations of torch without `detach`, `numpy` or `no_grad`."
        )
    return found
