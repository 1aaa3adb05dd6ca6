"""Batches divided into parts that are computed one after another, and what each part weighs in the whole."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from art_sensreg.objectives import Objective
from art_sensreg.penalties.base import FusedPenalty
from art_sensreg.penalties.forward.batch_norm import uses_batch_statistics
from art_sensreg.penalties.inputs import Share
from art_sensreg.training.numerics.loss_means import divisor

Part = tuple[int, Share]
"""The size of a part, and how its terms are weighted."""


def micro_batches(size: int, share: Share, pieces: int) -> list[Part]:
    """
    Divide a batch, whose first examples have noisy copies, into `pieces` micro-batches (at most its size) whose
    weighted terms add up to those of the batch.
    """
    if pieces == 1:
        return [(size, share)]
    noisy = size if share.noisy_rows is None else share.noisy_rows
    found, first = [], 0
    for own in _split(size, pieces):
        own_noisy = min(max(noisy - first, 0), own)
        weight, noisy_weight = share.weight * own / size, share.noisy_weight * own_noisy / max(noisy, 1)
        found.append((own, Share(None if own_noisy == own else own_noisy, weight, noisy_weight, share.sum_weight)))
        first += own
    return found


def weighted_by_divisor(parts: list[Part], loss: Any, y: torch.Tensor) -> list[Part]:
    """Weigh the losses of micro-batches by what they are divided by: with class weights, not by their sizes."""
    sizes = [size for size, _ in parts]
    divisors = [divisor(loss, part) for part in y[: sum(sizes)].split(sizes)]
    if all(isinstance(number, float) for number in divisors):
        return parts
    total, weight = sum(divisors), sum(share.weight for _, share in parts)
    pairs = zip(parts, divisors, strict=True)
    return [(size, replace(share, base_weight=weight * number / total)) for (size, share), number in pairs]


def examples_at_once(objective: Objective, activations: int) -> int | None:
    """How many examples have with their copies about so many activations; None if a batch cannot be divided."""
    fused = [penalty for penalty in objective.penalties.values() if isinstance(penalty, FusedPenalty)]
    noisy = [penalty for penalty in fused if not penalty.input_gradient]
    loss, plan, adversary = objective.base_loss, objective.plan, objective.adversary
    means = type(loss) is nn.CrossEntropyLoss and loss.weight is None  # a subclass may do anything
    means = means and loss.reduction == "mean" and loss.ignore_index < 0  # type: ignore[union-attr]
    means = means and all(getattr(penalty, "scale", "per_neuron") == "per_neuron" for penalty in noisy)
    separate = len(fused) < len(objective.penalties)
    whole = separate or objective.double_backward or not (plan.separable and plan.stacked)
    whole = whole or any(part.of_whole_batch for part in (*noisy, adversary) if part is not None)
    width = max((tap.width for tap in plan.taps.values()), default=0)
    if whole or not means or not width or uses_batch_statistics(plan.norms):
        return None
    branches = 2 + (adversary is not None and objective.compared_as == "noisy")
    return max(1, activations // (branches * width))


def cache_sized(size: int, share: Share, noisy: int, most: int) -> list[Part]:
    """
    Divide a batch into parts of at most `most` examples whose activations stay in the processor's cache. Those without
    noisy copies (all but the first `noisy`, at least 1) are the last part: they need no comparison.
    """
    count = -(-noisy // most)
    weight, noisy_weight, rest = share.weight, share.noisy_weight, size - noisy
    parts = [(own, Share(None, weight * own / size, noisy_weight * own / noisy)) for own in _split(noisy, count)]
    return parts if not rest else [*parts, (rest, Share(0, weight * rest / size, 0.0))]


def _split(size: int, count: int) -> list[int]:
    return [size // count + (index < size % count) for index in range(count)]
