"""Adversaries with several gradient steps: PGD and TRADES."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from art_sensreg.adversaries.base import Adversary, BaseLoss, uniform_in_ball
from art_sensreg.penalties.forward.inner_ascent import NORMS
from art_sensreg.penalties.forward.noise import Randomness, draw_noise
from art_sensreg.utils import check_count, check_number
from art_sensreg.utils.norms import norm_name
from art_sensreg.utils.precision import at_least_float32


@dataclass(frozen=True, kw_only=True)
class PGD(Adversary):
    """
    Projected gradient descent with `max_iter` steps from a random start; the default step is `2.5 eps / max_iter`.

    | Paper link: https://arxiv.org/abs/1706.06083 (Madry et al. 2018, equation 2 and section 3.1)

    :param max_iter: Number of steps.
    :param norm: `linf` (`np.inf`) or `l2` (2). For the others see :class:`Adversary`.

    Example:
    >>> from torch import nn
    >>> from art_sensreg.adversaries import PGD
    >>> adversary, x = PGD(eps=0.1, max_iter=3), torch.full((2, 3), 0.5)
    >>> perturbed = adversary.perturb(nn.Linear(3, 2), x, torch.tensor([0, 1]), nn.CrossEntropyLoss())
    >>> bool((perturbed - x).abs().max() <= 0.1 + 1e-6)
    True
    """

    max_iter: int = 7
    norm: str = "linf"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("max_iter", self.max_iter)
        object.__setattr__(self, "norm", norm_name(self.norm, NORMS))

    @property
    def steps(self) -> int:
        return self.max_iter

    @property
    def step(self) -> float:
        return 2.5 * self.eps / self.max_iter if self.eps_step is None else self.eps_step

    @property
    def ball(self) -> str:
        return self.norm

    def draw_start(self, x: torch.Tensor, generator: Randomness) -> torch.Tensor:
        return uniform_in_ball(x, self.eps, self.norm, generator)


@dataclass(frozen=True, kw_only=True)
class TRADES(PGD):
    """
    TRADES: the base loss on clean images plus `beta` times the divergence of adversarial from clean predictions.

    The perturbation maximises the same divergence `KL(p(x) || p(x'))`, from `x + 0.001 N(0, I)`, without labels; of
    inputs in a larger range, such as [0, 255], the noise is 1/300 of `eps`, lest it be lost in rounding.
    `clean_fraction` must stay 0: the clean loss counts in full.

    | Paper link: https://arxiv.org/abs/1901.08573 (Zhang et al. 2019, equation 5 and Algorithm 1)

    :param beta: Weight of the divergence: the paper's 1/lambda. For the others see :class:`PGD`.

    Example:
    >>> from art_sensreg.adversaries import TRADES
    >>> TRADES(eps=0.1, max_iter=3)
    TRADES(eps=0.1, eps_step=None, clean_fraction=0.0, pair='noisy', max_iter=3, norm='linf', beta=6.0)
    """

    beta: float = 6.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("beta", self.beta, minimum=0.0, exclusive=True)
        if self.clean_fraction:
            raise ValueError(
                f"`clean_fraction` is {self.clean_fraction!r}; expected 0: TRADES weighs both losses by `beta`."
            )

    @property
    def attacks_clean_logits(self) -> bool:
        return True

    @property
    def start_radius(self) -> float:
        return 0.0  # next to the images themselves

    def draw_start(self, x: torch.Tensor, generator: Randomness) -> torch.Tensor:
        return draw_noise(x, "gaussian", generator).mul_(self._start_size(x))

    def _start_size(self, x: torch.Tensor) -> float:
        size = self.root_mean_square(x)
        return size / 300 if size > 1 else 0.001

    def loss_fn_beside(
        self, clean: torch.Tensor | None, y: torch.Tensor, base_loss: BaseLoss
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        assert clean is not None
        if clean.ndim < 2 or clean.shape[1] < 2:
            raise ValueError("`model` returns one output; TRADES expects at least two logits.")
        return lambda logits: divergence(clean, logits)

    def combine(
        self, base_loss: BaseLoss, clean: torch.Tensor | None, adversarial: torch.Tensor, y: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert clean is not None
        part = divergence(clean, adversarial)
        return base_loss(clean, y) + self.beta * part, part


def divergence(logits: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """`KL(softmax(logits) || softmax(others))`, mean over the batch; half precision is computed in float32."""
    first, second = (torch.log_softmax(at_least_float32(values), dim=1) for values in (logits, others))
    return functional.kl_div(second, first, reduction="batchmean", log_target=True)
