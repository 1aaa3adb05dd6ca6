"""How a model is run on clean and perturbed branches: determined once, before training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from art_sensreg.penalties.forward.taps import TapPlan, trial
from art_sensreg.utils import warn_caller
from art_sensreg.utils.model_state import MovedState


@dataclass(frozen=True, kw_only=True)
class ForwardPlan:
    """
    What is known of a model, and how its branches are run because of it.

    :param taps: The layers to be read for each penalty that reads some, by the penalty's name.
    :param stacked: Whether the branches form one batch; otherwise each has a forward pass of its own.
    :param reason: Why they are not stacked; empty if that is the model's randomness, which the branches share anyway.
    :param norms: The model's BatchNorm layers.
    :param separable: Whether a batch may be computed in parts.
    :param overwrites_input: Whether the model works in place on its input, or may do so.
    :param updates_state: Whether running statistics and other state move; not when a penalty is only measured.
    :param coupled: Whether an example's logits depend on other examples in a way other than through torch's BatchNorm.
    :param random: Whether anything random is drawn.
    :param draws: Whether more is drawn than what stacked branches share.
    :param repeatable: Whether equal random states and inputs give equal outputs.
    :param checkpointed: Whether the model uses activation checkpointing, or may do so.
    :param sources: Every random generator that the model may draw from.
    :param moved: State other than BatchNorm's that a forward pass changes.
    :param trial_size: Size of the batches with which this was found out.
    """

    taps: Mapping[str, TapPlan] = field(default_factory=dict)
    stacked: bool = True
    reason: str = ""
    norms: tuple[nn.Module, ...] = ()
    separable: bool = False
    overwrites_input: bool = True
    updates_state: bool = True
    coupled: bool = False
    random: bool = False
    draws: bool = False
    repeatable: bool = True
    checkpointed: bool = True
    sources: tuple[Any, ...] = ()
    moved: MovedState = field(default_factory=lambda: MovedState([]))
    trial_size: int = 0

    @property
    def sources_to_seed(self) -> list[Any]:
        """Generators other than torch's global ones, if the model draws more than dropout does."""
        return [source for source in self.sources if not _is_torchs(source)] if self.draws else []

    def unstacked(self, reason: str) -> ForwardPlan:
        """The plan after a stacked pass has failed: separate passes, with a warning that says why."""
        plan = replace(self, stacked=False, reason=reason)
        plan.warn_if_unstacked()
        return plan

    def warn_if_unstacked(self) -> None:
        """Warn that branches run one after another, unless that is for the model's randomness, which they share."""
        if self.stacked or not self.reason:
            return
        own = " Layers that are not torch's own normalise each branch with its own examples." if self.coupled else ""
        warn_caller(
            f"Clean and perturbed images cannot share a forward pass of this model, because {self.reason}. They are "
            "passed one after another, which takes a little longer; statistics and other state move with the clean "
            f"ones only.{own}"
        )


def works_in_place(model: nn.Module, x: torch.Tensor) -> bool:
    """Whether a model overwrites its input, tried out on a copy."""
    rows = x[:2].detach().clone()
    before = rows._version
    with trial(model, rows):
        model(rows)
    return rows._version != before


def _is_torchs(source: Any) -> bool:
    return isinstance(source, torch.Generator) and (
        source is torch.default_generator or source in torch.cuda.default_generators
    )
