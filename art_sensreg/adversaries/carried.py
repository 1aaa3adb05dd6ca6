"""The carried adversary: the perturbation of every image is kept, and moves by one gradient step a visit."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from art_sensreg.adversaries.base import Adversary, uniform_in_ball
from art_sensreg.adversaries.visits import LEVELS
from art_sensreg.penalties.forward.inner_ascent import NORMS
from art_sensreg.penalties.forward.noise import Randomness
from art_sensreg.utils import check_flag
from art_sensreg.utils.norms import norm_name

# A level of a perturbation in an L2 ball is a 127th of its largest entry, which is about four times the usual one:
# smaller steps than this would mostly be rounded away, in any dimension.
_FINEST_L2 = 40


@dataclass(frozen=True, kw_only=True)
class CarriedAdversary(Adversary):
    """
    One gradient step a visit, from where the perturbation of the image was left in the epoch before.

    Over the epochs the perturbations become those of many steps, for the price of one. With `pair="start"`, penalties
    compare the activations at the start of a visit's step with those at its end. Training keeps one byte a pixel; it
    needs to know which images a batch holds: arrays, or a loader whose data set yields indices.

    | Paper link: https://arxiv.org/abs/1912.11969 (Zheng et al. 2020, ATTA, algorithm 1)

    :param eps_step: Size of a step, in input units; None: `eps / 2`, or with `free`, whose gradients are those of the
        visit before, `eps / 4`.
    :param pair: As for :class:`Adversary`; by default `start`, or `noisy` with `free`, which has no start pass. With
        `free`, noisy copies are of the perturbed images, unless the loss needs the clean ones too.
    :param norm: `linf` (`np.inf`) or `l2` (2).
    :param free: Whether the input gradient of the training step itself moves the perturbation, for the next visit:
        there is no attack pass at all. For the other parameters see :class:`Adversary`.
    :raises ValueError: If `free` is combined with `pair="start"`, or a step is so small that it would be rounded away,
        too.

    Example:
    >>> from art_sensreg.adversaries import CarriedAdversary
    >>> adversary, x = CarriedAdversary(eps=0.1), torch.full((2, 3), 0.5)
    >>> perturbed = adversary.perturb(torch.nn.Linear(3, 2), x, torch.tensor([0, 1]), torch.nn.CrossEntropyLoss())
    >>> bool((perturbed - x).abs().max() <= 0.1 + 1e-6)
    True
    """

    pair: str = ""
    norm: str = "linf"
    free: bool = False

    def __post_init__(self) -> None:
        check_flag("free", self.free)
        if isinstance(self.pair, str) and not self.pair:
            object.__setattr__(self, "pair", "noisy" if self.free else "start")
        super().__post_init__()
        object.__setattr__(self, "norm", norm_name(self.norm, NORMS))
        finest = 2 * LEVELS if self.norm == "linf" else _FINEST_L2
        if self.step < self.eps / finest * (1 - 1e-9):  # while its size rises, both are rounded
            raise ValueError(
                f"`eps_step` is {self.eps_step!r} with `eps` {self.eps!r}; expected at least eps / {finest}: "
                "perturbations are kept in one byte a pixel, and a smaller step would be rounded away."
            )
        if self.free and self.pair == "start":
            raise ValueError(
                "`pair` is 'start' with `free`, which has no pass at the start of a step; expected 'adversarial' or "
                "'noisy'."
            )

    @property
    def step(self) -> float:
        if self.eps_step is not None:
            return self.eps_step
        return self.eps / 4 if self.free else self.eps / 2

    @property
    def ball(self) -> str:
        return self.norm

    @property
    def carries(self) -> bool:
        return True

    def draw_start(self, x: torch.Tensor, generator: Randomness) -> torch.Tensor:
        """The perturbations at the first visit."""
        return uniform_in_ball(x, self.eps, self.norm, generator)
