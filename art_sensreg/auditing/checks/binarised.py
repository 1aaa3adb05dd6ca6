"""Copies of a classifier in which an adversarial example must exist."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from art_sensreg.attacks.base.norms import Ball
from art_sensreg.penalties.forward.taps import ActivationTaps


class BinarisedCopies(nn.Module):
    """
    For each image a two-class classifier on the features of the model, the last hidden layer of `tapped`: the image and
    `inner` random points around it are one class, a random point on the border of the ball is the other. The ball thus
    contains an adversarial example by construction, and an attack that does not find one does not work on these
    features.

    A batch must hold the images in the order in which the copies were made; :meth:`single` is the copy for one image,
    with batches of any size. The generator is on the CPU.

    | Paper link: https://arxiv.org/abs/2206.13991 (Zimmermann et al. 2022)
    """

    weight: torch.Tensor
    bias: torch.Tensor
    border: torch.Tensor

    def __init__(
        self,
        model: nn.Module,
        x: torch.Tensor,
        ball: Ball,
        generator: torch.Generator,
        tapped: nn.Module | None = None,
        inner: int = 48,
    ) -> None:
        super().__init__()
        self.model, self.tapped = model, model if tapped is None else tapped
        with torch.no_grad():
            border = ball.border(x, generator)
            points = [x, *(x + 0.9 * (ball.inside(x, generator) - x) for _ in range(inner))]
            inside = torch.stack([self.features(point) for point in points], 1)
            weight = self.features(border) - inside.mean(1)
            # Standardised by the spread of the inner points, which matters if features differ widely in scale.
            weight = weight / (inside.var(1) + 0.1 * inside.var(1).mean(1, keepdim=True) + 1e-12)
            weight = weight / weight.norm(dim=1, keepdim=True).clamp_min(1e-12)
            reached = (self.features(border) * weight).sum(1)
            within = (inside * weight[:, None]).sum(2)
            between = torch.where(reached > within.amax(1), within.amax(1), torch.minimum(within[:, 0], reached))
            bias = (reached + between) / 2
        for name, value in (("weight", weight), ("bias", bias), ("border", border)):
            self.register_buffer(name, value, persistent=False)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Activations of the last hidden layer, or the logits of a model without one, `(n, d)`."""
        with ActivationTaps(self.tapped, "hidden") as taps:
            logits = self.model(x)
        hidden = taps.read(logits)
        return (hidden[-1][1] if hidden else logits).flatten(1).to(x.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = (self.features(x) * self.weight).sum(1) - self.bias
        return torch.stack([-score, score], 1)

    def single(self, index: int) -> nn.Module:
        """The copy for the image at an index: a module from `(m, ...)` to two logits."""
        return _Single(self, index)


class _Single(nn.Module):
    def __init__(self, copies: BinarisedCopies, index: int) -> None:
        super().__init__()
        self.copies, self.index = copies, index

    def forward(self, x: torch.Tensor) -> Any:
        weight, bias = self.copies.weight[self.index], self.copies.bias[self.index]
        score = self.copies.features(x) @ weight - bias
        return torch.stack([-score, score], 1)
