"""Accuracy, and the sums over an epoch's steps from which its record in the history is computed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from art_sensreg.objectives import Objective
from art_sensreg.outputs import single_output_threshold
from art_sensreg.training.distributed import Processes


def correct(logits: torch.Tensor, y: torch.Tensor, at: float = 0.0) -> torch.Tensor:
    """
    Which examples are classified correctly, `(n,)`, by logits `(n, C)`, or `(n, 1)` of ART's binary classifiers, where
    above `at` is the second class. Labels are class indices, or rows of class probabilities.
    """
    if logits.ndim < 2 or logits.shape[1] == 1:
        return (logits.flatten() > at) == (y.flatten() > 0.5)
    labels = y.argmax(1) if y.ndim == 2 and y.shape[1] == logits.shape[1] else y.flatten()
    return logits.argmax(1) == labels


def largest_class(y: torch.Tensor) -> float:
    """The share of the most frequent class among labels in any form: what an answer without a look scores."""
    classes = y.argmax(1) if y.ndim == 2 and y.shape[1] > 1 else (y.flatten() > 0.5 if y.is_floating_point() else y)
    counts = torch.unique(classes, return_counts=True)[1]
    return float(counts.max() / counts.sum())


def threshold(objective: Objective) -> float:
    """
    Above what a single output means the second class: 0.5 or 0, by the loss.

    NaN where the loss does not tell, for which a model with one output is refused before training.
    """
    return single_output_threshold(objective.base_loss)


def read(values: Sequence[torch.Tensor | float]) -> list[float]:
    """Numbers, and tensors of one number each, from wherever they are; the host waits for the device once."""
    tensors = [value.detach().double() for value in values if isinstance(value, torch.Tensor)]
    numbers = iter(torch.stack(tensors).tolist() if tensors else [])
    return [next(numbers) if isinstance(value, torch.Tensor) else float(value) for value in values]


class EpochSums:
    """
    Sums of the terms and of correct predictions over the steps of an epoch, weighted by the size of each batch; a term
    that not every step has counts where it is. A single output above `at` means the second class.
    """

    def __init__(self, at: float) -> None:
        self._at = at
        self.reset()

    def reset(self) -> None:
        """Begin an epoch."""
        self._total = self._own = 0
        self._correct: torch.Tensor | float = 0.0
        self._terms: dict[str, torch.Tensor | float] = {}
        self._counts: dict[str, int] = {}

    def add(self, terms: dict[str, torch.Tensor], logits: torch.Tensor, y: torch.Tensor, total: int) -> None:
        """Add a step: the terms of the whole batch, of `total` examples, and the logits and labels of this process."""
        self._total += total
        self._own += len(logits)
        self._correct = self._correct + correct(logits, y, self._at).sum()
        for name, value in terms.items():
            self._terms[name] = self._terms.get(name, 0.0) + value * total
            self._counts[name] = self._counts.get(name, 0) + total

    def means(self, expected: Iterable[str] = (), processes: Processes = Processes()) -> dict[str, float]:  # noqa: B008 - frozen
        """
        The means so far, NaN of the `expected` terms if no step has counted, and the accuracy over all processes: the
        terms are those of whole batches already, but each process has counted its own predictions.
        """
        right, *terms = read([self._correct, *self._terms.values()])
        right, own = processes.sum([right, float(self._own)])
        none = {} if self._total else dict.fromkeys(expected, math.nan)
        means = {name: value / max(self._counts[name], 1) for name, value in zip(self._terms, terms, strict=True)}
        return {**none, **means, "accuracy": right / max(own, 1)}

    def state_dict(self) -> dict[str, Any]:
        """The sums, for a checkpoint in the middle of an epoch."""
        sums = {"correct": self._correct, "terms": self._terms, "counts": self._counts}
        return {"rows": self._total, "own": self._own, **sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._total, self._own = state["rows"], state["own"]
        self._correct, self._terms = state["correct"], state["terms"]
        self._counts = state.get("counts", dict.fromkeys(self._terms, self._total))  # older ones had one for all
