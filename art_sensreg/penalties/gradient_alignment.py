"""GradAlign: input gradients of the loss that point the same way at an image and near it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from art_sensreg.penalties.forward.noise import Randomness, draw_noise
from art_sensreg.penalties.gradient_diversity import unit_gradients
from art_sensreg.penalties.inputs import check_batch
from art_sensreg.penalties.loss_gradients import direction_loss, loss_gradients
from art_sensreg.utils import check_number, outside_inference_mode, python_numbers
from art_sensreg.utils.model_rng import random_sources, rewindable_rng_state


@dataclass(frozen=True, kw_only=True)
class GradientAlignmentPenalty:
    """
    GradAlign: `1 - cos(g(x), g(x + u))`, mean over the batch, with `g` the input gradient of the loss.

    `u` is uniform in the L-inf ball, and `x + u` is not clipped. With FGSM (`NFGSM(eps=, noise=0)`), which is exact
    where the loss is linear in that ball, it prevents catastrophic overfitting. Both gradients are differentiated a
    second time, and taken in training mode: that at `x` is not the one of the attack. Where a gradient is zero, the
    image counts as aligned.

    | Paper link: https://arxiv.org/abs/2007.02617 (Andriushchenko, Flammarion 2020, equation 5)

    :param weight: Factor in the objective, at least 0; the paper: 0.2 for CIFAR-10 at eps 8/255.
    :param eps: Size of the ball, in input units: that of the adversary.
    :raises ValueError: If a setting is out of range.
    :raises TypeError: If a setting has the wrong type.

    Example:
    >>> from art_sensreg.penalties import GradientAlignmentPenalty
    >>> model = nn.Linear(4, 2)  # of two classes: its gradients have one direction everywhere
    >>> float(GradientAlignmentPenalty(eps=0.1)(model, torch.rand(5, 4), torch.tensor([0, 1, 1, 0, 1]))) < 1e-6
    True
    """

    name: ClassVar[str] = "gradient_alignment"
    double_backward: ClassVar[bool] = True
    draws_noise: ClassVar[bool] = True

    weight: float = 0.2
    eps: float

    def __post_init__(self) -> None:
        python_numbers(self)
        check_number("weight", self.weight, minimum=0.0)
        check_number("eps", self.eps, minimum=0.0, exclusive=True)

    @outside_inference_mode
    def __call__(
        self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, generator: Randomness = None
    ) -> torch.Tensor:
        """
        Measure the penalty. The model keeps its mode; BatchNorm's running statistics do not change.

        :param model: Module from `(n, ...)` inputs to `(n, C)` logits.
        :param x: Batch of inputs, `(n, ...)`, floating point.
        :param y: Class indices `(n,)`, or class probabilities `(n, C)`.
        :param generator: Source of randomness on the device of `x`; torch's global one if `None`.
        :return: Unweighted value, a 0-d tensor, differentiable with respect to the model's parameters.
        """
        check_batch(model, x)
        x = x.detach()
        near = x + draw_noise(x, "uniform", generator).mul_(self.eps / 3**0.5)
        graph, found = torch.is_grad_enabled(), []
        with rewindable_rng_state(random_sources(model, x.device)) as rewind:
            for point in (x, near):
                found.append(loss_gradients(model, point, lambda logits: direction_loss(logits, y), graph))
                rewind()  # the same dropout at both
        first, second = unit_gradients(torch.stack(found))
        known = first.detach().any(1) & second.detach().any(1)
        return torch.where(known, 1 - (first * second).sum(1), 0.0).mean()
