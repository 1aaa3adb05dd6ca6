"""Adversaries with a single gradient step: cheap, and prone to catastrophic overfitting."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from art_sensreg.adversaries.base import Adversary, uniform
from art_sensreg.penalties.forward.noise import Randomness
from art_sensreg.utils import check_number


@dataclass(frozen=True, kw_only=True)
class FGSMRS(Adversary):
    """
    FGSM from a random start in the L-inf ball: one step of `1.25 eps`, projected back into the ball.

    | Paper link: https://arxiv.org/abs/2001.03994 (Wong, Rice, Kolter 2020, algorithm 3)

    Parameters as for :class:`Adversary`.

    Example:
    >>> from art_sensreg.adversaries import FGSMRS
    >>> adversary, x = FGSMRS(eps=0.1), torch.full((2, 3), 0.5)
    >>> perturbed = adversary.perturb(torch.nn.Linear(3, 2), x, torch.tensor([0, 1]), torch.nn.CrossEntropyLoss())
    >>> bool((perturbed - x).abs().max() <= 0.1 + 1e-6)
    True
    """

    @property
    def step(self) -> float:
        return 1.25 * self.eps if self.eps_step is None else self.eps_step


@dataclass(frozen=True, kw_only=True)
class NFGSM(Adversary):
    """
    N-FGSM: uniform noise of `noise * eps`, then one step of `eps`, without projection.

    | Paper link: https://arxiv.org/abs/2202.01181 (de Jorge et al. 2022, algorithm 1)

    :param noise: Half-width of the noise, in units of `eps`; the paper uses 2. For the others see
        :class:`Adversary`.

    Example:
    >>> from art_sensreg.adversaries import NFGSM
    >>> adversary, x = NFGSM(eps=0.1), torch.full((2, 3), 0.5)
    >>> perturbed = adversary.perturb(torch.nn.Linear(3, 2), x, torch.tensor([0, 1]), torch.nn.CrossEntropyLoss())
    >>> bool((perturbed - x).abs().max() <= 0.3 + 1e-6)
    True
    """

    noise: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("noise", self.noise, minimum=0.0)

    @property
    def radius(self) -> float:
        return self.noise * self.eps + self.step

    @property
    def start_radius(self) -> float:
        return self.noise * self.eps

    def root_mean_square(self, x: torch.Tensor) -> float:
        return math.sqrt((self.noise * self.eps) ** 2 / 3 + self.step**2)

    def draw_start(self, x: torch.Tensor, generator: Randomness) -> torch.Tensor:
        return uniform(x, self.noise * self.eps, generator)
