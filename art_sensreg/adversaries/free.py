"""Free adversarial training: every batch is trained on several times, and each step moves its perturbation too."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from art_sensreg.adversaries.carried import CarriedAdversary
from art_sensreg.penalties.forward.noise import Randomness
from art_sensreg.utils import check_count


@dataclass(frozen=True, kw_only=True)
class Free(CarriedAdversary):
    """
    Minibatch replays: each batch is trained on `replays` times in a row, and the input gradient of each step moves the
    perturbation for the next one, which a new batch takes over place by place.

    There is no attack pass. An epoch of `fit` does `replays` steps for each batch: divide `nb_epochs` by it for the
    cost of other training. It needs arrays, not a loader. Perturbations are kept within the range of the inputs.

    | Paper link: https://arxiv.org/abs/1904.12843 (Shafahi et al. 2019, algorithm 1)

    :param eps_step: Size of a step, in input units; None: `eps`.
    :param replays: The paper's m: 8 for CIFAR-10, 4 for ImageNet. For the other parameters see
        :class:`CarriedAdversary`; `free` must stay True.
    :raises ValueError: If it does not.

    Example:
    >>> from art_sensreg.adversaries import Free
    >>> Free(eps=0.1).replays
    8
    """

    free: bool = True
    replays: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("replays", self.replays)
        if not self.free:
            raise ValueError("`free` is False; expected True: the training step's own gradient moves the perturbation.")

    @property
    def step(self) -> float:
        return self.eps if self.eps_step is None else self.eps_step

    def draw_start(self, x: torch.Tensor, generator: Randomness) -> torch.Tensor:
        return torch.zeros_like(x)
