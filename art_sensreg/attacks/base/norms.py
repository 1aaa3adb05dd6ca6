"""Balls of perturbations in L-inf, L2 and L1: projections, steepest directions and random starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from art_sensreg.utils.norms import NORMS, norm_name

__all__ = ["NORMS", "Ball", "norm_name", "perturbation_norm"]

# Share of the coordinates that a step in L1 changes (SLIDE: Tramer and Boneh 2019, arXiv 1904.13000, section 3).
_L1_SHARE = 0.02
# Halvings of the interval in a projection onto the L1 ball: beyond what float32 resolves.
_BISECTIONS = 30


def perturbation_norm(difference: torch.Tensor, norm: str) -> torch.Tensor:
    """Norm of each example's perturbation: from `(n, ...)` to `(n,)`."""
    flat, norm = difference.flatten(1), norm_name(norm)
    if norm == "linf":
        return flat.abs().amax(1)
    return flat.pow(2).sum(1).sqrt() if norm == "l2" else flat.abs().sum(1)


def per_example(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """One value for each example, `(n,)`, shaped so that it broadcasts against a batch."""
    return values.view(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True)
class Ball:
    """
    The perturbations that an attack may make: a ball around each image, intersected with the box of valid images.

    :param norm: `linf`, `l2` or `l1`, in any of their spellings.
    :param eps: Radius, in the units of the images.
    :param low: Smallest value of an image; a number, or a tensor that broadcasts.
    :param high: Largest value.
    :raises ValueError: If there is no such norm.

    Example:
    >>> from art_sensreg.attacks.base.norms import Ball
    >>> Ball("linf", 0.25, 0.0, 1.0).project(torch.tensor([[0.5, 0.1]]), torch.tensor([[1.0, -1.0]]))
    tensor([[0.7500, 0.0000]])
    """

    norm: str
    eps: float
    low: Any = -float("inf")
    high: Any = float("inf")

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", norm_name(self.norm))

    def project(self, x: torch.Tensor, perturbed: torch.Tensor) -> torch.Tensor:
        """
        Project perturbed images onto the ball and the box.

        Clipping to the box only shrinks a perturbation; in L2, where it takes effect, the result is close to the
        nearest point, but not exactly that.
        """
        delta = perturbed - x
        if self.norm == "linf":
            delta = delta.clamp(-self.eps, self.eps)
        elif self.norm == "l2":
            shrink = self.eps / perturbation_norm(delta, "l2").clamp_min(1e-30)
            delta = delta * per_example(shrink.clamp_max(1.0), delta)
        else:
            room = torch.where(delta > 0, self.high - x, x - self.low).clamp_min(0)
            delta = _onto_l1(delta, room, self.eps)
        return torch.clamp(x + delta, self.low, self.high)

    def steepest(self, gradient: torch.Tensor) -> torch.Tensor:
        """
        The unit-norm direction along which a linear loss grows fastest; zero where the gradient is zero.

        In L1 it is spread over the fiftieth of the coordinates with the largest gradient.
        """
        if self.norm == "linf":
            return gradient.sign()
        if self.norm == "l2":
            # Squares of the tiny gradients of a saturated loss would be zero.
            largest = perturbation_norm(gradient, "linf")
            gradient = gradient / per_example(torch.where(largest > 0, largest, torch.ones_like(largest)), gradient)
            return gradient / per_example(perturbation_norm(gradient, "l2").clamp_min(1.0), gradient)
        flat = gradient.flatten(1)
        count = max(1, round(_L1_SHARE * flat.shape[1]))
        least = flat.abs().topk(count, dim=1).values[:, -1:]
        signs = torch.where(flat.abs() >= least, flat.sign(), torch.zeros_like(flat))
        return (signs / signs.abs().sum(1, keepdim=True).clamp_min(1.0)).view_as(gradient)

    def inward(self, perturbed: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """
        The gradient without the coordinates that would leave the box, on which steps in L2 and L1 would be wasted.

        | Paper link: https://arxiv.org/abs/2103.01208 (Croce and Hein 2021, section 3: the box in L1)
        """
        stopped = ((perturbed <= self.low) & (gradient < 0)) | ((perturbed >= self.high) & (gradient > 0))
        return gradient.masked_fill(stopped, 0.0)

    def inside(self, x: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Random starts inside the ball: uniform in L-inf, of uniform radius in L2 and L1."""
        if self.norm == "linf":
            noise = torch.rand(x.shape, generator=generator, dtype=torch.float32).to(x).mul_(2).sub_(1)
            return self.project(x, x + self.eps * noise)
        radius = torch.rand(len(x), generator=generator, dtype=torch.float32).to(x)
        border = self.border(x, generator)
        return x + per_example(radius, x) * (border - x)

    def border(self, x: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Random starts on the border of the ball: corners in L-inf, uniform on the sphere in L2 and L1."""
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float32).to(x)
        if self.norm == "linf":
            noise = noise.sign()
        elif self.norm == "l1":  # exponential sizes with random signs are uniform on the sphere of L1
            sizes = torch.rand(x.shape, generator=generator, dtype=torch.float32).to(x).clamp_min(1e-12).log().neg()
            noise = noise.sign() * sizes
        unit = noise / per_example(perturbation_norm(noise, self.norm).clamp_min(1e-30), noise)
        return self.project(x, x + self.eps * unit)


def _onto_l1(delta: torch.Tensor, room: torch.Tensor, eps: float) -> torch.Tensor:
    """
    Euclidean projection onto the L1 ball intersected with the box, by bisection on the amount of soft thresholding.

    Projecting onto the ball first and clipping to the box afterwards would waste the part of eps that is clipped away.

    | Paper link: https://arxiv.org/abs/2103.01208 (Croce and Hein 2021, proposition 2.1)
    """
    sizes, most = delta.flatten(1).abs(), room.flatten(1)
    low, high = sizes.new_zeros(len(sizes), 1), sizes.amax(1, keepdim=True)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        small = torch.minimum((sizes - middle).clamp_min(0), most).sum(1, keepdim=True) <= eps
        low, high = torch.where(small, low, middle), torch.where(small, middle, high)
    inside = torch.minimum(sizes, most).sum(1, keepdim=True) <= eps
    kept = torch.minimum((sizes - torch.where(inside, torch.zeros_like(high), high)).clamp_min(0), most)
    return (kept * delta.flatten(1).sign()).view_as(delta)
