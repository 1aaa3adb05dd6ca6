"""What penalties are measured on, and what they compute their values from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from art_sensreg.penalties.forward.branches import Activations, Branches
from art_sensreg.penalties.forward.inner_ascent import ClipValues
from art_sensreg.penalties.forward.noise import Randomness
from art_sensreg.penalties.forward.plan import ForwardPlan
from art_sensreg.utils import shown

Sigma = float | torch.Tensor


@dataclass(frozen=True)
class GivenBranch:
    """
    Perturbed copies of a batch that somebody else has made, adversarial ones say.

    :param x: The copies, `(n, ...)`.
    :param sigma: If penalties that compare clean with perturbed examples are to be measured on these copies and draw no
        noise: the `s` that their differences are divided by. Otherwise None.
    """

    x: torch.Tensor
    sigma: Sigma | None = None


@dataclass(frozen=True, kw_only=True)
class PenaltyInputs:
    """
    What penalties are measured on.

    :param x: Clean batch, `(n, ...)`, in the user's input units.
    :param generator: Source of randomness.
    :param clip_values: Input range as two broadcastable tensors, or None.
    :param noisy_rows: How many of the first examples get perturbed copies; None: all. Without effect unless the
        branches are stacked.
    :param given: A branch that comes after the clean one, or None.
    """

    x: torch.Tensor
    generator: Randomness = None
    clip_values: ClipValues | None = None
    noisy_rows: int | None = None
    given: GivenBranch | None = None


@dataclass(frozen=True)
class Measured:
    """
    The result of one forward pass.

    :param logits: Those of the clean branch and, if there is one, of the given branch, `(n, C)` each.
    :param values: Each penalty's unweighted value, by name.
    :param plan: How the model is to be run from now on.
    """

    logits: Sequence[torch.Tensor]
    values: dict[str, torch.Tensor]
    plan: ForwardPlan


@dataclass(frozen=True)
class Comparison:
    """
    What a penalty computes its value from.

    :param branches: The result of the forward pass; branch 0 is the clean one.
    :param perturbed: Numbers of the branches that the penalty compares with the clean one.
    :param sigma: The `s` that these were made with.
    :param layers: The activations of the penalty's layers.
    """

    branches: Branches
    perturbed: Sequence[int]
    sigma: Sigma
    layers: Sequence[Activations] = ()


def check_batch(model: Any, x: Any) -> None:
    """Check that `model` is a module, and `x` a floating point tensor `(n, ...)` with n at least 1."""
    if not isinstance(model, nn.Module):
        hint = ": the `model` of a classifier" if hasattr(model, "predict") else ""
        raise TypeError(f"`model` is {shown(model)}; expected an nn.Module from inputs to logits{hint}.")
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        came = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
        raise TypeError(f"`x` is {came}; expected a floating point torch.Tensor of shape (n, ...).")
    if x.ndim < 2 or len(x) == 0:
        raise ValueError(f"`x` has shape {tuple(x.shape)}; expected (n, ...) with n at least 1.")
