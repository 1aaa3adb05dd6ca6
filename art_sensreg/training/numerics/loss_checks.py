"""Checks of a loss before training: that it does not depend on what else is in a batch, and may be divided."""

from __future__ import annotations

import torch
from torch import nn

from art_sensreg.objectives import Objective
from art_sensreg.penalties.base import FusedPenalty
from art_sensreg.penalties.forward.taps import trial
from art_sensreg.training.checkpoint.objective_state import ObjectiveState
from art_sensreg.training.numerics.loss_means import adds_up, divisor


def check_loss_alone(objective: Objective, model: nn.Module, x: torch.Tensor) -> None:
    """
    Check that a loss does not use activations that a hook keeps for it, by a forward pass of some images: where other
    images go through the model together with those of the loss, they would be those of all of them.
    """
    passing = [penalty for penalty in objective.penalties.values() if isinstance(penalty, FusedPenalty)]
    adversary = objective.adversary is not None and (objective.adversary.needs_clean or bool(passing))
    if not adversary and all(penalty.input_gradient for penalty in passing):
        return
    state = ObjectiveState(Objective(base_loss=objective.base_loss), model, None)
    with trial(model, x):
        name = state.set_by(lambda: model(x.clone()))
    if name is not None:
        raise ValueError(
            f"`loss` of the classifier uses {name.removeprefix('base.')!r}, which each pass of the model sets, and "
            "noisy or perturbed images pass it too, for the penalties or the adversary; expected a loss of logits and "
            "labels alone, and its other part in `penalties`: a function penalty(model, x, y), with a pass of its own."
        )


def check_divisible(objective: Objective, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    """
    Find out whether the loss of a batch is the sum or the mean of its parts' losses, where batches are divided, and set
    the objective's `additive`. ValueError if the adversary mixes a loss that is not a plain mean over the examples with
    one that is.
    """
    loss = objective.base_loss
    with ObjectiveState(objective, model, None).unchanged(), trial(model, x):
        objective.additive = adds_up(loss, model(x.clone()), y)
    if not objective.only_base_loss and (objective.additive or not isinstance(divisor(loss, y), float)):
        raise ValueError(
            f"`accumulate` divides batches, and {type(objective.adversary).__name__} adds a mean over the examples to "
            "the `loss` of the classifier, which is a sum or has class weights; expected a loss that is a mean over "
            "the examples, or accumulate=1."
        )
