"""A batch under attack in training, and the perturbed images of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn

from art_sensreg.adversaries.base import Adversary, BaseLoss
from art_sensreg.adversaries.gradient_pair import GradientPair
from art_sensreg.penalties.forward.inner_ascent import ClipValues
from art_sensreg.penalties.forward.noise import Randomness
from art_sensreg.penalties.forward.plan import ForwardPlan


@dataclass(frozen=True)
class AttackedBatch:
    """
    A batch and what is maximised on it.

    :param x: Clean images, `(n, ...)`.
    :param start: Perturbations at which the steps begin, same shape; None: the adversary draws them.
    :param y: Labels in the form that the base loss expects.
    :param base_loss: Function of logits and labels, to a 0-d tensor.
    :param clip_values: Input range as two broadcastable tensors, or None.
    :param generator: Source of randomness.
    :param unchanged: Makes a context in which the loss remembers nothing.
    :param images: Keeps the perturbed images of a step whose loss is evaluated more than once.
    :param over_processes: As in `PenaltyInputs`.
    :param pair: Where the gradients at the start and at the end are compared, or None.
    """

    x: torch.Tensor
    start: torch.Tensor | None
    y: torch.Tensor
    base_loss: BaseLoss
    clip_values: ClipValues | None = None
    generator: Randomness = None
    unchanged: Callable[[], AbstractContextManager[None]] = nullcontext
    images: Callable[[Callable[[], torch.Tensor]], torch.Tensor] = lambda make: make()
    over_processes: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = field(default_factory=dict)
    pair: GradientPair | None = None


def perturbed_images(model: nn.Module, adversary: Adversary, batch: AttackedBatch, plan: ForwardPlan) -> torch.Tensor:
    """The images at the end of the adversary's steps, which leave the model and the loss as they were."""
    common = (batch.y, batch.base_loss)
    if batch.start is None:
        make = partial(adversary.perturb, model, batch.x, *common, batch.generator, batch.clip_values)
    else:
        make = partial(adversary.perturb_from, model, batch.x, batch.start, *common, batch.clip_values)
    watched = nullcontext() if batch.pair is None else batch.pair.watched(model)
    with plan.moved.preserved(), batch.unchanged(), watched:
        perturbed = batch.images(make)
    return perturbed if batch.pair is None else batch.pair.end_at(perturbed)
