"""The inputs of penalties, and the results of the forward pass that their values are computed from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from art_sensreg.penalties.forward.branches import Activations, Branches
from art_sensreg.penalties.forward.inner_ascent import ClipValues
from art_sensreg.penalties.forward.noise import Randomness
from art_sensreg.penalties.forward.plan import ForwardPlan
from art_sensreg.utils import shown

Sigma = float | torch.Tensor


def of_one_process(means: torch.Tensor) -> torch.Tensor:
    """Means over the examples of one process are those of the whole batch if there is no other."""
    return means


@dataclass(frozen=True)
class GivenBranch:
    """
    Perturbed copies of a batch made elsewhere, for example adversarial ones. With a `sigma`, penalties that
    compare clean with perturbed examples are measured on these copies and draw no noise: it is the `s` that their
    differences are divided by.
    """

    x: torch.Tensor
    sigma: Sigma | None = None


@dataclass(frozen=True, kw_only=True)
class PenaltyInputs:
    """
    What penalties are measured on: the clean batch in the user's input units, and a branch that comes after it, if one
    is given. The first `noisy_rows` examples get perturbed copies (None: all), without effect unless the branches are
    stacked. Where several processes have parts of a batch, `over_processes` makes the means, without a graph, of a
    penalty (by name) over the examples of one those of the whole batch.
    """

    x: torch.Tensor
    generator: Randomness = None
    clip_values: ClipValues | None = None
    noisy_rows: int | None = None
    given: GivenBranch | None = None
    over_processes: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Share:
    """
    The part of a global batch that one process has, and what its means count in those of the whole batch.

    :param noisy_rows: How many of the first examples get noisy copies; None: all. With 0 the penalties of the package
        are not measured, and count as 0.
    :param weight: Factor of the terms that are means over all examples; its mean over the processes is 1.
    :param noisy_weight: Factor of the terms that are means over the examples with noisy copies.
    :param sum_weight: Factor of a base loss that is a sum over the examples.
    :param base_weight: Factor of a base loss that divides by something other than the number of its examples; None
        if it does not.
    :param mean: The mean of a tensor over the processes, each of which must call it as often as the others; None: of a
        micro-batch, or of one process alone.
    """

    noisy_rows: int | None = None
    weight: float = 1.0
    noisy_weight: float = 1.0
    sum_weight: float = 1.0
    base_weight: float | torch.Tensor | None = None
    mean: Callable[[torch.Tensor], torch.Tensor] | None = field(default=None, repr=False, compare=False)

    def over_processes(
        self, weights: Mapping[str, float | torch.Tensor]
    ) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
        """By term, the function that makes its means over this process's examples those of the whole batch."""
        return {} if self.mean is None else {name: partial(self._weighted, weight) for name, weight in weights.items()}

    def _weighted(self, weight: float | torch.Tensor, means: torch.Tensor) -> torch.Tensor:
        assert self.mean is not None
        return self.mean(means * weight)


WHOLE_BATCH = Share()


def counted(term: torch.Tensor, weight: float | torch.Tensor) -> torch.Tensor:
    """A term, or 0 where it counts nothing: the mean over no example is not a number."""
    return torch.where(weight == 0, 0.0, term) if isinstance(weight, torch.Tensor) else term


@dataclass(frozen=True)
class Measured:
    """
    The result of one forward pass: the logits of the clean branch and, if there is one, of the given branch, `(n, C)`
    each; each penalty's unweighted value, by name; and how the model is to be run from now on.
    """

    logits: Sequence[torch.Tensor]
    values: dict[str, torch.Tensor]
    plan: ForwardPlan


@dataclass(frozen=True)
class Comparison:
    """
    What a penalty computes its value from: the branches, of which 0 is the clean one; the numbers of those that it
    compares with it, and the `s` that these were made with; the activations of its layers; and a function that makes
    means over this process's examples, without a graph, those over the whole batch: for values that are no means.
    """

    branches: Branches
    perturbed: Sequence[int]
    sigma: Sigma
    layers: Sequence[Activations] = ()
    over_processes: Callable[[torch.Tensor], torch.Tensor] = of_one_process


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
