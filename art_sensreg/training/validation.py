"""Scores on validation data, clean and under attack."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from art_sensreg.objectives import Objective
from art_sensreg.penalties.forward.inner_ascent import NORMS, Ascent, inner_ascent
from art_sensreg.training.batches import HeldOut, to_device
from art_sensreg.training.distributed import Processes
from art_sensreg.training.metrics import correct, read, threshold
from art_sensreg.training.numerics.loss_means import adds_up, divisor
from art_sensreg.utils import check_count, check_number, python_numbers
from art_sensreg.utils.norms import norm_name
from art_sensreg.utils.rng import derive_seed


@dataclass(frozen=True, kw_only=True)
class ValidationAttack:
    """
    Projected gradient descent (Madry et al. 2018, arXiv 1706.06083) on the base loss, for evaluating epochs.

    It serves to *rank* epochs cheaply. For claims of robustness use the attacks of the benchmark.

    :param eps: Size of the perturbation, in input units.
    :param norm: `linf` (`np.inf`) or `l2` (2).
    :param eps_step: Size of a step; None: `2.5 * eps / max_iter`.
    :param max_iter: Number of steps.
    :raises ValueError: If a setting is out of range.
    :raises TypeError: If a setting has the wrong type.

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
        ascent = Ascent(
            eps=self.eps,
            eps_step=step,
            max_iter=self.max_iter,
            norm=self.norm,
            clip_values=objective.clip_values,
            averaged=True,
        )
        return inner_ascent(model, lambda logits: objective.base_loss(logits, y), x, x + self.eps * start, ascent)


@dataclass(frozen=True)
class Scorer:
    """
    Scores models on held-out data; each process takes every so many batches. `val_loss` is the mean over all examples,
    also of a base loss that adds them up; the seed is that of an attack's random starts, which are the same in every
    epoch.
    """

    objective: Objective
    batch_size: int
    seed: int
    processes: Processes

    @torch.no_grad()
    def __call__(self, model: nn.Module, data: HeldOut, attack: ValidationAttack | None = None) -> dict[str, float]:
        """
        Score a model, which is left in evaluation mode: `val_loss`, `val_accuracy` and, with an attack,
        `val_robust_accuracy` (correct before and after it).
        """
        model.eval()
        at, loss_fn, processes = threshold(self.objective), self.objective.base_loss, self.processes
        summed: bool | None = None
        scores: list[torch.Tensor | float] = []
        device = next((parameter.device for parameter in model.parameters()), None)
        examples = 0
        for number, (x, y) in enumerate(data.batches(self.batch_size)):
            examples += len(x)
            if number % processes.count != processes.rank:
                continue
            x, y = to_device(x, device or x.device), to_device(y, device or y.device)
            logits = model(x.clone())  # the model may work in place
            right = correct(logits, y, at)
            loss = loss_fn(logits, y)
            robust = torch.zeros_like(right)
            if attack is not None:
                generator = torch.Generator().manual_seed(derive_seed(self.seed, "validation", number))
                perturbed = attack(model, self.objective, x, y, generator)
                robust = right & correct(model(perturbed), y, at)
            summed = adds_up(loss_fn, logits, y) if summed is None else summed
            count = float(len(x)) if summed else divisor(loss_fn, y)
            scores.extend([loss, count, right.sum(), robust.sum()])
        found = read(scores)  # at the end: nothing before makes the host wait
        pairs = zip(found[::4], found[1::4], strict=True)
        total = sum(value if summed else value * count for value, count in pairs if count)
        total, counts, *right_sums = processes.sum([total, *(sum(found[start::4]) for start in (1, 2, 3))])
        clean, robust_share = (number / examples for number in right_sums)
        result = {"val_loss": total / counts if counts else math.nan, "val_accuracy": clean}
        return result if attack is None else {**result, "val_robust_accuracy": robust_share}
