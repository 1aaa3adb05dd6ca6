"""
The input gradients at the start of an adversary's only step and at its end, both of which training computes anyway.

Where a network is locally linear they agree; before one-step training collapses they become orthogonal (Andriushchenko
and Flammarion 2020, arXiv 2007.02617, section 4: local linearity and catastrophic overfitting).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from art_sensreg.penalties.gradient_diversity import unit_gradients


class GradientPair:
    """
    Takes the gradient at the start from the attack, and that at the end from the backward pass of the training step.

    Example:
    >>> from art_sensreg.adversaries import FGSMRS
    >>> from art_sensreg.adversaries.gradient_pair import GradientPair
    >>> model, x, y, loss = nn.Linear(3, 2), torch.rand(4, 3), torch.tensor([0, 1, 0, 1]), nn.CrossEntropyLoss()
    >>> pair = GradientPair()
    >>> with pair.watched(model):
    ...     perturbed = FGSMRS(eps=0.1).perturb(model, x, y, loss)
    >>> loss(model(pair.end_at(perturbed)), y).backward()
    >>> round(pair.cosine().item(), 4)  # the model is linear, the loss has two classes
    1.0
    """

    def __init__(self) -> None:
        self._starts: list[torch.Tensor] = []
        self.leaves: list[torch.Tensor] = []
        """The images that the backward pass of the training step has to reach."""

    def start_with(self, gradient: torch.Tensor) -> None:
        """Note the gradient at the start of the next images."""
        if len(self._starts) == len(self.leaves):
            self._starts.append(gradient.detach())

    @contextmanager
    def watched(self, model: nn.Module) -> Iterator[None]:
        """Inside, the first gradient that is taken with respect to the model's input is that at the start."""

        def watch(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if inputs and isinstance(inputs[0], torch.Tensor) and inputs[0].requires_grad:
                inputs[0].register_hook(self.start_with)

        handle = model.register_forward_pre_hook(watch)
        try:
            yield
        finally:
            handle.remove()

    def end_at(self, perturbed: torch.Tensor) -> torch.Tensor:
        """The perturbed images for the training step, whose backward pass computes their gradient too."""
        if len(self._starts) == len(self.leaves) or not torch.is_grad_enabled():
            return perturbed
        self.leaves.append(perturbed.detach().requires_grad_(True))
        return self.leaves[-1].clone()  # the model may work in place

    def cosine(self) -> torch.Tensor | None:
        """
        The mean over the images of the cosine between both gradients, 0-d; None if they were not taken.

        Images with a gradient that is 0 or not finite do not count; 1 if none counts.
        """
        ends = [leaf.grad for leaf in self.leaves if leaf.grad is not None]
        if not ends or len(ends) != len(self._starts):
            return None
        start, end = unit_gradients(torch.stack([torch.cat(self._starts).float(), torch.cat(ends).float()]))
        cosines = (start * end).sum(1)
        known = cosines.isfinite() & (start != 0).any(1) & (end != 0).any(1)
        mean = torch.where(known, cosines, 0.0).sum() / known.sum().clamp_min(1)
        return torch.where(known.any(), mean, 1.0)
