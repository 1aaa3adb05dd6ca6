"""The one training loop of the package: every trainer and `SensRegClassifier.fit` end up here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm.auto import tqdm

from art_sensreg.objectives import Objective
from art_sensreg.training.config import TrainingConfig

Batch = tuple[torch.Tensor, torch.Tensor]
History = list[dict[str, float]]


class TensorBatches:
    """
    Shuffled batches of a data set that is held as two tensors.

    :param x: Images, `(n, ...)`, on the device of the model.
    :param y: Labels, `(n, ...)`.
    :param batch_size: Rows of a batch.
    :param drop_last: Whether an incomplete last batch is left out.
    :param no_single: Whether a last batch of one row joins the one before it: BatchNorm cannot normalise a single row.

    Example:
    >>> from art_sensreg.training.loop import TensorBatches
    >>> batches = TensorBatches(torch.rand(7, 2), torch.zeros(7), batch_size=3, no_single=True)
    >>> [len(x) for x, y in batches.epoch(torch.Generator().manual_seed(0))], len(batches)
    ([3, 4], 2)
    """

    def __init__(
        self, x: torch.Tensor, y: torch.Tensor, batch_size: int, drop_last: bool = False, no_single: bool = False
    ) -> None:
        self.x, self.y, self.batch_size = x, y, batch_size
        n = len(x)
        full, rest = divmod(n, batch_size)
        joined = rest == 1 and full > 0 and no_single
        self._sizes = [batch_size] * full + ([rest] if rest and not joined and not (drop_last and full) else [])
        if joined and not drop_last:
            self._sizes[-1] += 1

    def __len__(self) -> int:
        return len(self._sizes)

    def epoch(self, generator: torch.Generator) -> Iterator[Batch]:
        """
        Iterate over one epoch in a new order.

        :param generator: Source of the order, on the CPU.
        :return: Batches of images and labels.
        """
        order = torch.randperm(len(self.x), generator=generator).to(self.x.device)
        for rows in order[: sum(self._sizes)].split(self._sizes):
            yield self.x.index_select(0, rows), self.y.index_select(0, rows)


class CallableBatches:
    """
    Batches drawn from a function, for ART's data generators.

    :param draw: Function that returns the next batch of images and labels, on the device of the model.
    :param length: Number of batches of an epoch.

    Example:
    >>> from art_sensreg.training.loop import CallableBatches
    >>> batches = CallableBatches(lambda: (torch.rand(3, 2), torch.zeros(3)), length=2)
    >>> sum(len(x) for x, y in batches.epoch(torch.Generator()))
    6
    """

    def __init__(self, draw: Callable[[], Batch], length: int) -> None:
        self._draw = draw
        self._length = length

    def __len__(self) -> int:
        return self._length

    def epoch(self, generator: torch.Generator) -> Iterator[Batch]:
        """
        Iterate over one epoch.

        :param generator: Not used: the function has its own order.
        :return: Batches of images and labels.
        """
        for _ in range(self._length):
            yield self._draw()


def train(
    model: nn.Module,
    objective: Objective,
    batches: TensorBatches | CallableBatches,
    optimizer: torch.optim.Optimizer,
    config: TrainingConfig,
    scheduler: Any = None,
    validation: Batch | None = None,
    verbose: bool = False,
    training_mode: bool = True,
) -> History:
    """
    Train a model.

    :param model: Module from `(n, ...)` inputs to `(n, C)` logits; trained in place.
    :param objective: What each step minimises; already prepared for the model.
    :param batches: The training data.
    :param optimizer: Optimizer of the model's parameters.
    :param config: Settings.
    :param scheduler: Any torch learning rate scheduler of the optimizer, or None.
    :param validation: Images and labels that are scored after every epoch, or None.
    :param verbose: Whether a progress bar is shown.
    :param training_mode: Whether the model trains in training mode; False keeps it in evaluation mode, as BatchNorm
        layers whose parameters all are frozen always are.
    :return: One dict per epoch: `epoch`, `loss`, `base`, each penalty's value, `accuracy`, `learning_rate` (of the
        first parameter group, at the start of the epoch), `seconds`, and with validation data `val_loss`,
        `val_accuracy`.
    :raises ValueError: If the scheduler is too short.
    :raises FloatingPointError: If a term of the loss turns NaN or infinite; the weights are those before that step.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    seed = int(torch.randint(2**31, ())) if config.seed is None else config.seed
    order = torch.Generator().manual_seed(seed)
    noise = torch.Generator(device=device).manual_seed(seed)
    per_step = _steps_every_batch(scheduler, config, len(batches))
    history: History = []
    frozen = _frozen_batch_norms(model)
    bar = tqdm(total=config.nb_epochs * len(batches), disable=not verbose, desc="Training", unit="step")
    with bar, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for epoch in range(config.nb_epochs):
            start = time.perf_counter()
            rate = float(optimizer.param_groups[0]["lr"])
            sums = _Sums(_threshold(objective))
            model.train(training_mode)
            for module in frozen:
                module.eval()
            for step, (x, y) in enumerate(batches.epoch(order)):
                terms, logits = objective(model, x, y, noise)
                _check_finite(terms, epoch, step)
                optimizer.zero_grad(set_to_none=True)
                terms["loss"].backward()
                if config.max_grad_norm is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
                optimizer.step()
                if scheduler is not None and per_step:
                    scheduler.step()
                sums.add(terms, logits.detach(), y)
                bar.update()
                if verbose and (step % 10 == 9 or step + 1 == len(batches)):
                    bar.set_postfix(sums.means(), refresh=False)
            record = {"epoch": epoch + 1, **sums.means(), "learning_rate": rate}
            if validation is not None:
                record.update(_validate(model, objective, *validation, batch_size=config.batch_size))
            if scheduler is not None and not per_step:
                _step_epoch(scheduler, record)
            record["seconds"] = time.perf_counter() - start
            history.append(record)
    model.eval()
    return history


class _Sums:
    """Running sums of the terms and of correct predictions, weighted by the rows of each batch."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.rows = 0
        self.correct = torch.zeros(())
        self.terms: dict[str, torch.Tensor] = {}

    def add(self, terms: dict[str, torch.Tensor], logits: torch.Tensor, y: torch.Tensor) -> None:
        rows = len(logits)
        self.rows += rows
        self.correct = self.correct.to(logits.device) + _correct(logits, y, self.threshold)
        for name, value in terms.items():
            self.terms[name] = self.terms.get(name, 0) + value.detach() * rows

    def means(self) -> dict[str, float]:
        means = {name: float(total) / self.rows for name, total in self.terms.items()}
        return {**means, "accuracy": float(self.correct) / self.rows}


def _correct(logits: torch.Tensor, y: torch.Tensor, threshold: float = 0.0) -> torch.Tensor:
    if logits.ndim < 2 or logits.shape[1] == 1:  # a single output: ART's binary classifiers
        return ((logits.flatten() > threshold) == (y.flatten() > 0.5)).sum()
    labels = y.argmax(1) if y.ndim == 2 and y.shape[1] == logits.shape[1] else y.flatten()
    return (logits.argmax(1) == labels).sum()


def _threshold(objective: Objective) -> float:
    """Where a single output turns to the second class: `BCELoss` takes probabilities, all others logits."""
    return 0.5 if isinstance(objective.base_loss, nn.BCELoss) else 0.0


def _check_finite(terms: dict[str, torch.Tensor], epoch: int, step: int) -> None:
    if torch.isfinite(terms["loss"]):
        return
    culprit = next((name for name, value in terms.items() if name != "loss" and not torch.isfinite(value)), "loss")
    raise FloatingPointError(
        f"The term {culprit!r} is {terms[culprit].item()} in epoch {epoch + 1}, step {step + 1}; expected a finite "
        "loss. The weights are those before this step. Try a smaller learning rate, penalty weight or `max_grad_norm`."
    )


@torch.no_grad()
def _validate(
    model: nn.Module, objective: Objective, x: torch.Tensor, y: torch.Tensor, batch_size: int
) -> dict[str, float]:
    model.eval()
    loss, correct = 0.0, 0
    for images, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
        logits = model(images.clone())  # the model may work in place
        loss += float(objective.base_loss(logits, labels)) * len(images)
        correct += int(_correct(logits, labels, _threshold(objective)))
    return {"val_loss": loss / len(x), "val_accuracy": correct / len(x)}


def _frozen_batch_norms(model: nn.Module) -> list[nn.Module]:
    """BatchNorm layers whose parameters all are frozen: fine-tuning must not move their running statistics either."""
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm) and list(module.parameters())]
    return [layer for layer in layers if not any(parameter.requires_grad for parameter in layer.parameters())]


def _steps_every_batch(scheduler: Any, config: TrainingConfig, steps: int) -> bool:
    schedulers = torch.optim.lr_scheduler
    if scheduler is None:
        return False
    if not hasattr(scheduler, "step"):
        raise TypeError(f"`scheduler` is {scheduler!r}; expected a torch learning rate scheduler.")
    per_step = config.scheduler_interval == "step"
    if config.scheduler_interval == "auto":
        one_cycle = isinstance(scheduler, schedulers.OneCycleLR) and scheduler.total_steps != config.nb_epochs
        per_step = one_cycle or isinstance(scheduler, schedulers.CyclicLR)
    if isinstance(scheduler, schedulers.OneCycleLR):
        wanted = config.nb_epochs * (steps if per_step else 1)
        left = scheduler.total_steps - max(scheduler.last_epoch, 0)
        if left < wanted:
            raise ValueError(
                f"`scheduler` has {left} of {scheduler.total_steps} steps left; expected at least {wanted}."
            )
    return per_step


def _step_epoch(scheduler: Any, record: dict[str, float]) -> None:
    if not isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        scheduler.step()
        return
    metric = "accuracy" if scheduler.mode == "max" else "loss"
    scheduler.step(record.get(f"val_{metric}", record[metric]))
