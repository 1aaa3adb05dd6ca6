"""The KL divergence of Bayesian layers from their prior."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from art_sensreg.randomization.layers import GaussianWeights
from art_sensreg.utils import check_number, python_numbers
from art_sensreg.utils.precision import at_least_float32


def gaussian_divergence(mean: torch.Tensor, std: torch.Tensor, prior_std: float) -> torch.Tensor:
    """`KL(N(mean, std^2) || N(0, prior_std^2))`, summed over independent entries; half precision in float32."""
    mean, std = (at_least_float32(value) for value in (mean, std))
    terms = math.log(prior_std) - std.log() + (std.pow(2) + mean.pow(2)) / (2 * prior_std**2) - 0.5
    return terms.sum()


@dataclass(frozen=True, kw_only=True)
class BayesianKL:
    """
    Divergence of the Bayesian layers of a model from their prior: the second term of Adv-BNN's objective.

    | Paper link: https://arxiv.org/abs/1810.01279 (Liu et al. 2019, equation 8)

    :param weight: Factor in the objective, at least 0: 1 over the number of training images makes the
        objective the negative evidence lower bound per image.
    :raises ValueError: If it is out of range.

    Example:
    >>> from art_sensreg.randomization import BayesianKL, randomize
    >>> model = randomize(nn.Linear(4, 2), kind="bayesian")
    >>> BayesianKL()(model).item() > 0
    True
    """

    weight: float = 1.0
    name: ClassVar[str] = "kl"

    def __post_init__(self) -> None:
        python_numbers(self)
        check_number("weight", self.weight, minimum=0.0)

    def __call__(self, model: nn.Module, x: torch.Tensor | None = None, y: torch.Tensor | None = None) -> torch.Tensor:
        """
        The unweighted value of a model with Bayesian layers, a 0-d tensor; inputs and labels are not used. ValueError
        if the model has none.
        """
        layers = [module for module in model.modules() if isinstance(module, GaussianWeights)]
        if not layers:
            raise ValueError('`model` has no Bayesian layer; expected randomize(model, kind="bayesian").')
        terms = [gaussian_divergence(mean, std, layer.prior_std) for layer in layers for mean, std in layer.moments()]
        return torch.stack(terms).sum()
