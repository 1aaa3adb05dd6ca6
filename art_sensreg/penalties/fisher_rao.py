"""FIRE: the Fisher-Rao distance between the prediction for an input and the worst-case prediction near it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from art_sensreg.penalties.base import FusedPenalty
from art_sensreg.penalties.forward.inner_ascent import Ascent, ClipValues, evaluated, inner_ascent
from art_sensreg.penalties.forward.noise import Randomness, draw_noise
from art_sensreg.penalties.inputs import Comparison, Sigma
from art_sensreg.utils import check_count, check_number
from art_sensreg.utils.precision import at_least_float32

# Size of the Gaussian noise at which the ascent starts: at the input itself the distance has no slope.
_START = 0.001


def root_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """
    `sqrt(softmax(z))`, a point on the unit sphere, without square roots of small numbers: `exp(log_softmax(z) / 2)`.

    Half precision is computed in float32.
    """
    logits = at_least_float32(logits)
    # The difference of nearby floats is exact: a large common offset must not cost the digits that count.
    shifted = logits - logits.detach().amax(dim=1, keepdim=True)
    return torch.exp(torch.log_softmax(shifted, dim=1) / 2)


def fisher_rao_distance(logits: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """
    Fisher-Rao distance of the softmax distributions of two batches of logits, `2 arccos(sum_c sqrt(p_c q_c))`.

    Computed as `4 arcsin(||sqrt p - sqrt q|| / 2)`: the sum may exceed 1 by rounding, where `arccos` is NaN, and near 1
    the derivative of `arccos` is infinite. For nearby distributions the square is twice their KL divergence. From 0 to
    pi; the gradient is 0 where the two are equal.

    | Paper link: https://arxiv.org/abs/2106.06685 (Picot et al. 2022, equation 6)
    """
    squares = (root_probabilities(logits) - root_probabilities(others)).pow(2).sum(1)
    # `where` before and after: an infinite derivative times 0 would be NaN.
    apart = ~(squares <= torch.finfo(squares.dtype).tiny)  # NaN stays NaN
    chord = torch.where(apart, torch.where(apart, squares, 1.0).sqrt(), 0.0)
    return 4 * torch.asin(chord / 2)


@dataclass(frozen=True, kw_only=True)
class FisherRaoPenalty(FusedPenalty):
    """
    FIRE: `E d_FR(p(x'), p(x))^2` with `x'` the input within `eps` of `x` whose prediction is farthest.

    `x'` is found by sign ascent on the same distance from `x + 0.001 N(0, I)`, with the model in evaluation mode and
    the clean side detached; in the loss itself gradients flow through both sides. The labels are not used.

    The weight is the paper's lambda, the factor of `d_FR^2`, with `d_FR = 2 arccos(...)`. The authors' code omits that
    factor of 2, so its `beta` is worth a quarter: `beta = 20` there is `weight = 5` here.

    | Paper link: https://arxiv.org/abs/2106.06685 (Picot et al. 2022, equation 12)

    :param weight: lambda, at least 0.
    :param eps: L-inf size of the perturbation, in input units; the defaults are for images in [0, 1].
    :param eps_step: Size of a step.
    :param max_iter: Number of steps. The defaults are those of CIFAR-10; :data:`FIRE_PRESETS` has MNIST's too.
    :raises ValueError: If a setting is out of range.
    :raises TypeError: If a setting has the wrong type.

    Example:
    >>> from art_sensreg import FisherRaoPenalty
    >>> model = nn.Linear(4, 3)
    >>> float(FisherRaoPenalty(eps=0.1, eps_step=0.02)(model, torch.rand(8, 4))) > 0
    True
    """

    name: ClassVar[str] = "fisher_rao"

    weight: float = 5.0
    eps: float = 0.031
    eps_step: float = 0.007
    max_iter: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("eps", self.eps, minimum=0.0, exclusive=True)
        check_number("eps_step", self.eps_step, minimum=0.0, exclusive=True)
        check_count("max_iter", self.max_iter)

    @property
    def inner_maximisation(self) -> bool:
        return True

    def branches(
        self, model: nn.Module, x: torch.Tensor, generator: Randomness, clip_values: ClipValues | None
    ) -> tuple[list[torch.Tensor], Sigma]:
        clean = evaluated(model, x)
        if clean.shape[1] < 2:
            raise ValueError(f"`model` returns one output; {type(self).__name__} expects at least two logits.")
        start = torch.add(x.detach(), draw_noise(x.detach(), "gaussian", generator), alpha=_START)
        ascent = Ascent(eps=self.eps, eps_step=self.eps_step, max_iter=self.max_iter, clip_values=clip_values)
        return [inner_ascent(model, lambda logits: fisher_rao_distance(logits, clean).sum(), x, start, ascent)], 1.0

    def evaluate(self, compared: Comparison, generator: Randomness) -> torch.Tensor:
        logits = compared.branches.logits
        others = logits[compared.perturbed[0]]
        return fisher_rao_distance(others, logits[0][: len(others)]).pow(2).mean()


FIRE_PRESETS = {
    "mnist": FisherRaoPenalty(weight=5.0, eps=0.3, eps_step=0.01, max_iter=40),
    "cifar10": FisherRaoPenalty(weight=5.0, eps=0.031, eps_step=0.007, max_iter=10),
}
"""The settings of the paper's experiments (Picot et al. 2022, section 5), by data set."""
