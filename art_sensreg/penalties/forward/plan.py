"""What is known of a model that is to be trained, and what follows from it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from art_sensreg.penalties.forward.taps import trial
from art_sensreg.utils.model_state import MovedState


@dataclass
class Traits:
    """
    What is known of a model.

    :param stacked: Whether branches may be stacked into one batch.
    :param reason: Why not; empty if that is the model's randomness, which the branches share all the same.
    :param coupled: Whether a row's logits can be differentiated by other rows, at fixed statistics of BatchNorm.
    :param random: Whether anything random is drawn.
    :param draws: Whether more is drawn than what stacked branches share.
    :param repeatable: Whether equal random states and inputs give equal outputs.
    :param checkpointed: Whether activations are checkpointed, or may be.
    :param sources: Every generator that the model may draw from.
    :param moved: State that a pass changes, beside BatchNorm's.
    :param rows: How many rows the model was looked at with.
    """

    stacked: bool = True
    reason: str = ""
    coupled: bool = False
    random: bool = False
    draws: bool = False
    repeatable: bool = True
    checkpointed: bool = True
    sources: list[Any] = field(default_factory=list)
    moved: MovedState = field(default_factory=lambda: MovedState([]))
    rows: int = 0

    @property
    def sources_to_seed(self) -> list[Any]:
        """Generators beside torch's own global ones, if the model draws more than dropout does."""
        return [source for source in self.sources if not _torchs_own(source)] if self.draws else []


def works_in_place(model: nn.Module, x: torch.Tensor) -> bool:
    """
    Tell whether a model overwrites its input.

    :param model: Any `nn.Module`.
    :param x: Some inputs, `(n, ...)`; they are left alone.
    :return: True if it does.

    Example:
    >>> from art_sensreg.penalties.forward.plan import works_in_place
    >>> works_in_place(nn.ReLU(), torch.rand(2, 3)), works_in_place(nn.ReLU(inplace=True), torch.rand(2, 3))
    (False, True)
    """
    rows = x[:2].detach().clone()
    before = rows._version
    with trial(model, rows):
        model(rows)
    return rows._version != before


def check_traits(traits: Traits, penalties: Sequence[Any]) -> None:
    """
    Check that penalties can be measured on a model.

    :param traits: What is known of the model.
    :param penalties: The penalties.
    :raises ValueError: If one needs what the model has not.
    """
    if penalties and not traits.repeatable:
        raise ValueError(
            "`model` returns other outputs for the same inputs and random states, so that clean and noisy images "
            "cannot be compared; expected random numbers from the global generators of torch, numpy or Python, or from "
            "generators that are attributes of modules or global variables named in their code."
        )
    for penalty in penalties:
        if traits.coupled and penalty.sums_rows:
            raise ValueError(
                f"`model` makes a row's logits depend on other rows in a way other than that of torch's BatchNorm, and "
                f"{penalty!r} sums over rows that it takes for independent; expected another `estimator`."
            )


def warn_of(traits: Traits) -> None:
    """
    Say that branches run one after another where that is not for the model's randomness, which they share.

    :param traits: What is known of the model.
    """
    if traits.stacked or not traits.reason:
        return
    own = " Each branch is normalised with its own rows, where a layer is none of torch's." if traits.coupled else ""
    warnings.warn(
        f"Clean and perturbed images cannot share a forward pass of this model, because {traits.reason}. They pass one "
        f"after another, which takes a little longer; statistics and other state move with the clean ones only.{own}",
        stacklevel=2,
    )


def _torchs_own(source: Any) -> bool:
    return isinstance(source, torch.Generator) and (
        source is torch.default_generator or source in torch.cuda.default_generators
    )
