"""FGSM-PGI: a single step that starts where the one of the epoch before ended."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from art_sensreg.adversaries.carried import CarriedAdversary
from art_sensreg.penalties.forward.noise import Randomness, draw_noise


@dataclass(frozen=True, kw_only=True)
class FGSMPGI(CarriedAdversary):
    """
    FGSM from the perturbation of the previous epoch (FGSM-EP), at first from a corner of the L-inf ball.

    The paper's regularisation, a penalty on how far the step moves the logits, is `LogitPairingPenalty()`: its start
    and end are the `pair` of this adversary. Neither the momentum of the paper's FGSM-MEP nor its label smoothing is
    part of it.

    | Paper link: https://arxiv.org/abs/2207.08859 (Jia et al. 2022, equations 6 to 8)

    :param eps_step: Size of a step, in input units; None: `eps`. For the other parameters see
        :class:`CarriedAdversary`; `norm` must stay `linf`, and `free` False.
    :raises ValueError: If these do not.

    Example:
    >>> from art_sensreg.adversaries import FGSMPGI
    >>> from art_sensreg.penalties import LogitPairingPenalty
    >>> settings = {"adversary": FGSMPGI(eps=0.1), "penalties": [LogitPairingPenalty()]}  # of a SensRegTrainer
    >>> settings["adversary"].pair
    'start'
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm != "linf":
            raise ValueError(f"`norm` is {self.norm!r}; expected linf, in which FGSM takes its step.")
        if self.free:
            raise ValueError("`free` is True; expected False: FGSM-PGI takes its step before that of the training.")

    @property
    def step(self) -> float:
        return self.eps if self.eps_step is None else self.eps_step

    def draw_start(self, x: torch.Tensor, generator: Randomness) -> torch.Tensor:
        return draw_noise(x, "rademacher", generator).mul_(self.eps)
