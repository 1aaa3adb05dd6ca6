"""Scores on validation data, clean and under attack, and what follows from them: early stopping, the best weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from art_sensreg.objectives import Objective
from art_sensreg.outputs import single_output_threshold
from art_sensreg.penalties.forward.inner_ascent import NORMS, inner_ascent
from art_sensreg.utils import check_count, check_number, python_numbers
from art_sensreg.utils.norms import norm_name


@dataclass(frozen=True, kw_only=True)
class ValidationAttack:
    """
    Projected gradient descent (Madry et al. 2018, arXiv 1706.06083) on the base loss, to judge epochs by.

    It is there to *rank* epochs cheaply. Robustness is claimed with the attacks of the benchmark.

    :param eps: Size of the perturbation, in input units.
    :param norm: `linf` (`np.inf`) or `l2` (2).
    :param eps_step: Size of a step; None: `2.5 * eps / max_iter`.
    :param max_iter: Number of steps.
    :raises ValueError: If a setting is out of range.
    :raises TypeError: If a setting is of a wrong type.

    Example:
    >>> from art_sensreg.training import ValidationAttack
    >>> ValidationAttack(eps=0.1, max_iter=5)
    ValidationAttack(eps=0.1, norm='linf', eps_step=None, max_iter=5)
    """

    eps: float
    norm: str = "linf"
    eps_step: float | None = None
    max_iter: int = 10

    def __post_init__(self) -> None:
        python_numbers(self)
        check_number("eps", self.eps, minimum=0.0, exclusive=True)
        object.__setattr__(self, "norm", norm_name(self.norm, NORMS))
        check_count("max_iter", self.max_iter)
        if self.eps_step is not None:
            check_number("eps_step", self.eps_step, minimum=0.0, exclusive=True)

    def __call__(
        self,
        model: nn.Module,
        objective: Objective,
        x: torch.Tensor,
        y: torch.Tensor,
        generator: torch.Generator,
    ) -> torch.Tensor:
        """
        Perturb a batch.

        :param model: The model; it keeps its mode.
        :param objective: Its base loss is maximised, within its `clip_values`.
        :param x: Images, `(n, ...)`.
        :param y: Labels.
        :param generator: Source of the random start, on the CPU.
        :return: Perturbed images, of the shape of `x`.
        """
        step = 2.5 * self.eps / self.max_iter if self.eps_step is None else self.eps_step
        start = torch.rand(x.shape, generator=generator, dtype=torch.float32).to(x).mul_(2).sub_(1)
        return inner_ascent(
            model,
            lambda logits: objective.base_loss(logits, y),
            x,
            x + self.eps * start,
            self.eps,
            step,
            self.max_iter,
            self.norm,
            objective.clip_values,
            averaged=True,
        )


def correct(logits: torch.Tensor, y: torch.Tensor, at: float = 0.0) -> torch.Tensor:
    """
    Tell for each row whether it is classified rightly.

    :param logits: `(n, C)`; or `(n, 1)` of ART's binary classifiers.
    :param y: Class indices, or rows of class probabilities.
    :param at: Where a single output turns to the second class.
    :return: Booleans, `(n,)`.

    Example:
    >>> from art_sensreg.training.validation import correct
    >>> correct(torch.eye(2), torch.tensor([0, 0])).tolist()
    [True, False]
    """
    if logits.ndim < 2 or logits.shape[1] == 1:
        return (logits.flatten() > at) == (y.flatten() > 0.5)
    labels = y.argmax(1) if y.ndim == 2 and y.shape[1] == logits.shape[1] else y.flatten()
    return logits.argmax(1) == labels


def threshold(objective: Objective) -> float:
    """
    Where a single output turns to the second class; see `outputs.single_output_kind`.

    :param objective: The objective.
    :return: 0.5 or 0; NaN where the loss does not tell, for which a model with one output is refused before training.
    """
    return single_output_threshold(objective.base_loss)
