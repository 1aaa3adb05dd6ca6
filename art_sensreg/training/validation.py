"""Scores on validation data, clean and under attack, and what follows from them: early stopping, the best weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from art_sensreg.objectives import Objective
from art_sensreg.penalties.base import ClipValues, check_choice, check_count, check_number
from art_sensreg.penalties.noise import derive_seed
from art_sensreg.training.distributed import Processes

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class ValidationAttack:
    """
    Projected gradient descent (Madry et al. 2018, arXiv 1706.06083) on the base loss, to judge epochs by.

    It is there to *rank* epochs cheaply. Robustness is claimed with the attacks of the benchmark.

    :param eps: Size of the perturbation, in input units.
    :param norm: `linf` or `l2`.
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
        check_number("eps", self.eps, minimum=0.0, exclusive=True)
        check_choice("norm", self.norm, ("linf", "l2"))
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

        :param model: The model, in evaluation mode.
        :param objective: Its base loss is maximised, within its `clip_values`.
        :param x: Images, `(n, ...)`.
        :param y: Labels.
        :param generator: Source of the random start, on the CPU.
        :return: Perturbed images, of the shape of `x`.
        """
        step = 2.5 * self.eps / self.max_iter if self.eps_step is None else self.eps_step
        start = torch.rand(x.shape, generator=generator).to(x).mul_(2).sub_(1)
        perturbed = self._inside(x, x + self.eps * start, objective.clip_values)
        for _ in range(self.max_iter):
            perturbed = perturbed.detach().requires_grad_(True)
            with torch.enable_grad():
                loss = objective.base_loss(model(perturbed.clone()), y)
            (gradient,) = torch.autograd.grad(loss, perturbed)
            perturbed = self._inside(x, perturbed + step * self._direction(gradient), objective.clip_values)
        return perturbed.detach()

    def _direction(self, gradient: torch.Tensor) -> torch.Tensor:
        if self.norm == "linf":
            return gradient.sign()
        return nn.functional.normalize(gradient.flatten(1), dim=1).view_as(gradient)

    def _inside(self, x: torch.Tensor, perturbed: torch.Tensor, clip_values: ClipValues | None) -> torch.Tensor:
        delta = perturbed.detach() - x
        if self.norm == "linf":
            delta = delta.clamp(-self.eps, self.eps)
        else:
            size = delta.flatten(1).norm(dim=1).clamp_min(self.eps)
            delta = delta * (self.eps / size).view(-1, *[1] * (delta.ndim - 1))
        return x + delta if clip_values is None else (x + delta).clamp(*clip_values)


@torch.no_grad()
def validate(
    model: nn.Module,
    objective: Objective,
    data: Batch,
    batch_size: int,
    attack: ValidationAttack | None,
    seed: int,
    processes: Processes,
) -> dict[str, float]:
    """
    Score a model; each process takes every so many batches.

    :param model: The model; left in evaluation mode.
    :param objective: Its base loss is the `val_loss`.
    :param data: Images and labels, on the device of the model.
    :param batch_size: Rows of a forward pass.
    :param attack: Attack whose accuracy is reported too, or None.
    :param seed: Seed of the attack's random starts; they are the same in every epoch.
    :param processes: Those that share the work.
    :return: `val_loss`, `val_accuracy` and, with an attack, `val_robust_accuracy` (correct before and after it).
    """
    model.eval()
    at = threshold(objective)
    sums = [0.0, 0.0, 0.0]
    for number, (x, y) in enumerate(zip(data[0].split(batch_size), data[1].split(batch_size), strict=True)):
        if number % processes.count != processes.rank:
            continue
        logits = model(x.clone())  # the model may work in place
        right = correct(logits, y, at)
        sums[0] += float(objective.base_loss(logits, y)) * len(x)
        sums[1] += float(right.sum())
        if attack is not None:
            generator = torch.Generator().manual_seed(derive_seed(seed, "validation", number))
            perturbed = attack(model, objective, x, y, generator)
            sums[2] += float((right & correct(model(perturbed), y, at)).sum())
    loss, clean, robust = (total / len(data[0]) for total in processes.sum(sums))
    scores = {"val_loss": loss, "val_accuracy": clean}
    return scores if attack is None else {**scores, "val_robust_accuracy": robust}


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
    Where a single output turns to the second class: `BCELoss` takes probabilities, all others logits.

    :param objective: The objective.
    :return: 0.5 or 0.
    """
    return 0.5 if isinstance(objective.base_loss, nn.BCELoss) else 0.0


class Monitor:
    """
    Watches one entry of the history: when to stop, and which weights were best.

    :param entry: Its name; those ending in `loss` are the better the lower.
    :param patience: Epochs without a better value after which training stops, or None.
    :param restore_best: Whether the best weights are kept.

    Example:
    >>> from art_sensreg.training.validation import Monitor
    >>> monitor, model = Monitor("val_accuracy", patience=1, restore_best=False), nn.Linear(1, 1)
    >>> [monitor.stops_after({"epoch": i, "val_accuracy": value}, model) for i, value in enumerate([0.1, 0.3, 0.2])]
    [False, False, True]
    """

    def __init__(self, entry: str, patience: int | None, restore_best: bool) -> None:
        self.entry, self.patience, self.restore_best = entry, patience, restore_best
        self.best = math.inf if entry.endswith("loss") else -math.inf
        self.waited = 0
        self.weights: dict[str, torch.Tensor] = {}

    def stops_after(self, record: dict[str, float], model: nn.Module) -> bool:
        """
        Take notice of an epoch.

        :param record: Its entry of the history.
        :param model: The model as validated.
        :return: Whether training shall stop.
        """
        value = record[self.entry]
        if value < self.best if self.entry.endswith("loss") else value > self.best:
            self.best, self.waited = value, 0
            if self.restore_best:
                self.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        else:
            self.waited += 1
        return self.exhausted

    @property
    def exhausted(self) -> bool:
        """Whether there were as many epochs without a better value as patience allows."""
        return self.patience is not None and self.waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """The state, for a checkpoint."""
        return {"best": self.best, "waited": self.waited, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Take back what `state_dict` returned.

        :param state: The same.
        """
        self.best, self.waited, self.weights = state["best"], state["waited"], state["weights"]
