"""The mean squared difference of the logits of two versions of an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from art_sensreg.penalties.base import FusedPenalty
from art_sensreg.penalties.forward.inner_ascent import ClipValues
from art_sensreg.penalties.forward.noise import Randomness, draw_noise
from art_sensreg.penalties.inputs import Comparison, Sigma
from art_sensreg.utils import check_number
from art_sensreg.utils.precision import at_least_float32


@dataclass(frozen=True, kw_only=True)
class LogitPairingPenalty(FusedPenalty):
    """
    `||z(x') - z(x)||^2 / C`, mean over the batch, of the images that the adversary's `pair` names.

    With `FGSMPGI`, whose `pair` is `start`, it is the regularisation of FGSM-PGI; with `pair="adversarial"` that of
    adversarial logit pairing.

    | Paper link: https://arxiv.org/abs/2207.08859 (Jia et al. 2022, equation 8)
    | Paper link: https://arxiv.org/abs/1803.06373 (Kannan et al. 2018)

    :param weight: Factor in the objective, at least 0; that of Jia et al. is 10.
    :param sigma: Size of Gaussian noise, in input units, where no adversary gives the other version of an image; None:
        the noise of the objective's `SensitivityPenalty`.
    :raises ValueError: If a setting is out of range.
    :raises TypeError: If a setting has the wrong type.

    Example:
    >>> from art_sensreg.penalties import LogitPairingPenalty
    >>> float(LogitPairingPenalty(sigma=0.1)(torch.nn.Linear(4, 3), torch.rand(5, 4))) > 0
    True
    """

    name: ClassVar[str] = "logit_pairing"

    weight: float = 10.0
    sigma: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma is not None:
            check_number("sigma", self.sigma, minimum=0.0, exclusive=True)

    @property
    def shares_noise(self) -> bool:
        return self.sigma is None

    @property
    def compares(self) -> bool:
        return True

    def branches(
        self, model: nn.Module, x: torch.Tensor, generator: Randomness, clip_values: ClipValues | None
    ) -> tuple[list[torch.Tensor], Sigma]:
        if self.sigma is None:
            return [], 1.0
        return [torch.add(x, draw_noise(x, "gaussian", generator), alpha=self.sigma)], self.sigma

    def evaluate(self, compared: Comparison, generator: Randomness) -> torch.Tensor:
        clean, *others = [at_least_float32(compared.branches.logits[i]) for i in (0, *compared.perturbed)]
        return torch.stack([(z - clean[: len(z)]).pow(2).mean() for z in others]).mean()
