"""NuAT: one gradient step, and a loss, on the nuclear norm of what a perturbation does to the logits of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from art_sensreg.adversaries.base import Adversary, BaseLoss
from art_sensreg.penalties.forward.noise import Randomness, draw_noise
from art_sensreg.penalties.nuclear_norm import nuclear_norm
from art_sensreg.utils import check_number


@dataclass(frozen=True, kw_only=True)
class NuAT(Adversary):
    """
    Nuclear norm adversarial training: the base loss on clean images plus `weight` times `||Z' - Z||_* / n`.

    `Z` and `Z'` are the `(n, C)` logits of the clean and perturbed images of a batch, so that its size counts. One step
    of `eps` on the base loss plus the same term, from signs of size `noise * eps`, projected into the ball.
    `clean_fraction` must stay 0: the clean loss counts in full. The authors raise the weight during training from 0:
    `TrainingConfig(penalty_warmup=)` does it here too.

    | Paper link: https://papers.nips.cc/paper/2021/hash/62889e73828c756c961c5a6d6c01a463-Abstract.html
        (Sriramanan et al. 2021, equations 2 and 3)

    :param weight: The paper's lambda, at least 0; theirs is 4.5 at batches of 64.
    :param noise: Size of the start, in units of `eps`. For the other parameters see :class:`Adversary`.
    :raises ValueError: If `clean_fraction` is not 0, too.

    Example:
    >>> from torch import nn
    >>> from art_sensreg.adversaries import NuAT
    >>> adversary, x = NuAT(eps=0.1), torch.full((2, 3), 0.5)
    >>> perturbed = adversary.perturb(nn.Linear(3, 2), x, torch.tensor([0, 1]), nn.CrossEntropyLoss())
    >>> bool((perturbed - x).abs().max() <= 0.1 + 1e-6)
    True
    """

    weight: float = 4.5
    noise: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("weight", self.weight, minimum=0.0)
        check_number("noise", self.noise, minimum=0.0)
        if self.clean_fraction:
            raise ValueError(
                f"`clean_fraction` is {self.clean_fraction!r}; expected 0: NuAT weighs its second term by `weight`."
            )

    @property
    def attacks_clean_logits(self) -> bool:
        return True

    @property
    def of_whole_batch(self) -> bool:
        return True

    def at_strength(self, strength: float) -> NuAT:
        return self if strength == 1 else replace(self, weight=self.weight * strength)

    def draw_start(self, x: torch.Tensor, generator: Randomness) -> torch.Tensor:
        return draw_noise(x, "rademacher", generator).mul_(self.noise * self.eps)

    def loss_fn_beside(
        self, clean: torch.Tensor | None, y: torch.Tensor, base_loss: BaseLoss
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        assert clean is not None
        return lambda logits: base_loss(logits, y) + self.weight * nuclear_norm(logits, clean) / len(clean)

    def combine(
        self, base_loss: BaseLoss, clean: torch.Tensor | None, adversarial: torch.Tensor, y: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert clean is not None
        part = nuclear_norm(adversarial, clean) / len(clean)
        return base_loss(clean, y) + self.weight * part, part
