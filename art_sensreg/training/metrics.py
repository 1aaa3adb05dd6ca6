"""What an epoch is judged by: sums over its steps, scores on validation data, early stopping, the best weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from art_sensreg.objectives import Objective
from art_sensreg.training.batches import to_device
from art_sensreg.training.checkpoint.objective_state import Trained
from art_sensreg.training.config import TrainingConfig
from art_sensreg.training.distributed import Processes
from art_sensreg.training.held_out import HeldOut
from art_sensreg.training.numerics.loss_means import adds_up, divisor
from art_sensreg.training.validation import ValidationAttack, correct, threshold
from art_sensreg.utils.rng import derive_seed


def read(values: Sequence[torch.Tensor | float]) -> list[float]:
    """
    Numbers from wherever they are; the host waits for the device once for all of them.

    :param values: Numbers, or tensors of one number each.
    :return: The numbers.

    Example:
    >>> from art_sensreg.training.metrics import read
    >>> read([torch.tensor(1), 0.5, torch.tensor(2.0)])
    [1.0, 0.5, 2.0]
    """
    tensors = [value.detach().double() for value in values if isinstance(value, torch.Tensor)]
    numbers = iter(torch.stack(tensors).tolist() if tensors else [])
    return [next(numbers) if isinstance(value, torch.Tensor) else float(value) for value in values]


class Sums:
    """Running sums of the terms and of correct predictions, weighted by the rows of each batch."""

    def __init__(self) -> None:
        self.rows = 0
        self.own = 0
        self.correct: torch.Tensor | float = 0.0
        self.terms: dict[str, torch.Tensor | float] = {}

    def add(self, terms: dict[str, torch.Tensor], logits: torch.Tensor, y: torch.Tensor, rows: int, at: float) -> None:
        self.rows += rows
        self.own += len(logits)
        self.correct = self.correct + correct(logits, y, at).sum()
        for name, value in terms.items():
            self.terms[name] = self.terms.get(name, 0.0) + value * rows

    def means(self, processes: Processes = Processes()) -> dict[str, float]:  # noqa: B008 - frozen
        """The terms are those of whole batches already; each process has counted its own correct predictions."""
        rows = max(self.rows, 1)
        correct, *terms = read([self.correct, *self.terms.values()])
        right, own = processes.sum([correct, float(self.own)])
        means = {name: total / rows for name, total in zip(self.terms, terms, strict=True)}
        return {**means, "accuracy": right / max(own, 1)}

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "own": self.own, "correct": self.correct, "terms": self.terms}

    def load_state_dict(self, stored: dict[str, Any]) -> None:
        self.rows, self.own = stored["rows"], stored["own"]
        self.correct, self.terms = stored["correct"], stored["terms"]


@torch.no_grad()
def validate(
    model: nn.Module,
    objective: Objective,
    data: HeldOut,
    batch_size: int,
    attack: ValidationAttack | None,
    seed: int,
    processes: Processes,
) -> dict[str, float]:
    """
    Score a model; each process takes every so many batches.

    :param model: The model; left in evaluation mode.
    :param objective: Its base loss is the `val_loss`: the mean over all rows, also of one that adds them up.
    :param data: Images and labels.
    :param batch_size: Rows of a forward pass.
    :param attack: Attack whose accuracy is reported too, or None.
    :param seed: Seed of the attack's random starts; they are the same in every epoch.
    :param processes: Those that share the work.
    :return: `val_loss`, `val_accuracy` and, with an attack, `val_robust_accuracy` (correct before and after it).
    """
    model.eval()
    at = threshold(objective)
    loss_fn = objective.base_loss
    summed: bool | None = None
    scores: list[torch.Tensor | float] = []
    device = next((parameter.device for parameter in model.parameters()), None)
    rows = 0
    for number, (x, y) in enumerate(data.batches(batch_size)):
        rows += len(x)
        if number % processes.count != processes.rank:
            continue
        x, y = to_device(x, device or x.device), to_device(y, device or y.device)
        logits = model(x.clone())  # the model may work in place
        right = correct(logits, y, at)
        loss = loss_fn(logits, y)
        robust = torch.zeros_like(right)
        if attack is not None:
            generator = torch.Generator().manual_seed(derive_seed(seed, "validation", number))
            perturbed = attack(model, objective, x, y, generator)
            robust = right & correct(model(perturbed), y, at)
        summed = adds_up(loss_fn, logits, y) if summed is None else summed
        count = float(len(x)) if summed else divisor(loss_fn, y)
        scores.extend([loss, count, right.sum(), robust.sum()])
    found = read(scores)  # at the end: nothing before makes the host wait
    pairs = zip(found[::4], found[1::4], strict=True)
    total = sum(value if summed else value * count for value, count in pairs if count)
    total, counts, *right_sums = processes.sum([total, *(sum(found[start::4]) for start in (1, 2, 3))])
    clean, robust_share = (number / rows for number in right_sums)
    result = {"val_loss": total / counts if counts else math.nan, "val_accuracy": clean}
    return result if attack is None else {**result, "val_robust_accuracy": robust_share}


class Monitor:
    """
    Watches one entry of the history: when to stop, and which weights were best.

    :param entry: Its name; those ending in `loss` are the better the lower.
    :param patience: Epochs without a better value after which training stops, or None.
    :param restore_best: Whether the best weights are kept.

    Example:
    >>> from art_sensreg.training.metrics import Monitor
    >>> monitor, model = Monitor("val_accuracy", patience=1, restore_best=False), nn.Linear(1, 1)
    >>> [monitor.stops_after({"epoch": i, "val_accuracy": value}, model) for i, value in enumerate([0.1, 0.3, 0.2])]
    [False, False, True]
    """

    def __init__(self, entry: str, patience: int | None, restore_best: bool) -> None:
        self.entry, self.patience, self.restore_best = entry, patience, restore_best
        self.best = math.inf if entry.endswith("loss") else -math.inf
        self.waited = 0
        self.weights: dict[str, torch.Tensor] = {}

    def stops_after(self, record: dict[str, float], model: nn.Module | Trained) -> bool:
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


def make_monitor(config: TrainingConfig, validated: bool) -> Monitor | None:
    """
    Make the monitor that a config asks for.

    :param config: Settings.
    :param validated: Whether there are validation data.
    :return: The monitor, or None if there is nothing to watch.
    :raises ValueError: If what is to be watched will not be there.
    """
    if config.validation_attack is not None and not validated:
        raise ValueError("`validation_attack` is given and `validation_data` is None; expected data to attack.")
    if config.patience is None and not config.restore_best:
        return None
    entry = config.monitor or ("val_robust_accuracy" if config.validation_attack else "val_accuracy")
    if entry.startswith("val_") and not validated:
        raise ValueError(f"`monitor` is {entry!r} and `validation_data` is None; expected validation data.")
    if entry == "val_robust_accuracy" and config.validation_attack is None:
        raise ValueError(f"`monitor` is {entry!r} and `validation_attack` is None; expected a ValidationAttack.")
    return Monitor(entry, config.patience, config.restore_best)
