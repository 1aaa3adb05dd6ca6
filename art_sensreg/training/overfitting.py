"""Catastrophic overfitting: one-step adversarial training that loses its robustness to PGD within an epoch."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from art_sensreg.training.batches import HeldOut
from art_sensreg.training.callbacks import TrainingState
from art_sensreg.training.checkpoint.objective_state import TrainedState
from art_sensreg.training.validation import ValidationAttack

logger = logging.getLogger(__name__)

ACTIONS = ("report", "stop", "roll_back", "ignore")
POINTS = 256
"""Images on which the accuracy under PGD is measured after every epoch, at most."""

# Below this share of the best accuracy so far, and this far below it in all, one-step training has collapsed: it falls
# to a few percent within one epoch (Wong et al. 2020, section 5.4), while sampling moves it by a few points.
_SHARE, _DROP = 0.5, 0.1
# Or it never withstood PGD, and withstands a single step all the better: it collapsed in its first epoch.
_GAP = 0.4
# Where a single step breaks as much, a fall is a collapse from far above the score of one answer to all images only.
_FAR = 0.3
# Input gradients at the start and the end of the adversary's step agree in healthy networks: their cosine is 0.9 to 0.2
# or so, less as training goes on. It falls to 0 before one-step training collapses. In untrained networks it is small
# too: a fall of its mean over some steps below the first number counts where it has been above the second.
_ORTHOGONAL, _ALIKE = 0.15, 0.3
# One step in so many is compared: for a small network the gradient at the end is a good part of a plain step.
_COMPARED_EVERY, _SMOOTHING = 4, 0.8


@dataclass(frozen=True)
class Watched:
    """
    What the guard measures after every epoch, and on which data: PGD of the size that training is to withstand, and a
    single step of that size, by the names of their entries in the history (`pgd_accuracy`, `fgsm_accuracy`).
    """

    attacks: dict[str, ValidationAttack]
    data: HeldOut


def watched_attacks(eps: float, norm: str) -> dict[str, ValidationAttack]:
    """The attacks that a guard compares, by the names of their entries in the history; `eps` is in input units."""
    return {
        "pgd_accuracy": ValidationAttack(eps=eps, norm=norm),
        "fgsm_accuracy": ValidationAttack(eps=eps, norm=norm, eps_step=1.25 * eps, max_iter=1),
    }


class OverfittingGuard:
    """
    Watches the accuracy under PGD over the epochs, and acts when it collapses: when it falls far below that of an
    earlier epoch, or far below that under a single step.

    | Paper link: https://arxiv.org/abs/2001.03994 (Wong, Rice, Kolter 2020, section 5.4)

    If it `predicts`, it also follows the cosine of input gradients at the start and the end of the adversary's step,
    every few steps, and warns as soon as they have become orthogonal: the loss is no longer locally linear, and the
    collapse is near. At the end of that epoch it acts as if it had come.

    | Paper link: https://arxiv.org/abs/2007.02617 (Andriushchenko and Flammarion 2020, section 4)

    A fall counts only from above `chance`, the share of the most frequent class.

    The action is to `report` it; to `stop` training with the weights as they are; or to `roll_back`: stop, and return
    the weights of the best epoch before.
    """

    def __init__(self, action: str, watched: Watched, predicts: bool = False, chance: float = 0.0) -> None:
        self.action, self.watched, self.predicts, self.chance = action, watched, predicts, chance
        self.best = 0.0
        self.collapsed = False
        self.cosine: float | None = None  # a mean over the last steps or so
        self.alike = self.predicted = False
        self.weights: dict[str, torch.Tensor] = {}

    @property
    def restores(self) -> bool:
        """Whether the weights of the best epoch are to be returned."""
        return (self.collapsed or self.predicted) and bool(self.weights)

    def compares(self, step: int) -> bool:
        """Whether the gradients of an epoch's step, counted from 0, are compared."""
        return self.predicts and step % _COMPARED_EVERY == 0

    def note_step(self, cosine: float, state: TrainingState) -> None:
        """Note how far the gradients of a step agree; warn, at once, where a collapse is to be expected."""
        before = cosine if self.cosine is None else self.cosine
        self.cosine = _SMOOTHING * before + (1 - _SMOOTHING) * cosine
        if self.cosine > _ALIKE:
            self.alike, self.predicted = True, False
        elif self.cosine < _ORTHOGONAL and self.alike and not self.predicted:
            self.predicted = True
            logger.warning(
                "Catastrophic overfitting is near: in epoch %d, step %d, the cosine of input gradients at the start "
                "and the end of the adversary's step has fallen to %.2f. %s",
                state.epoch, state.step, self.cosine, self._advice(),
            )  # fmt: skip

    def stops_after(self, record: dict[str, float], model: nn.Module | TrainedState, rising: bool = False) -> bool:
        """
        Note an epoch, by its record and the model as measured, and tell whether training should stop. The record
        gets the entry `catastrophic_overfitting`, 1 in the epoch of the collapse, and, with predictions,
        `overfitting_predicted`, 1 where the next ones are in danger. While the adversary's size is `rising`, a model
        that does not withstand the full one has not collapsed.
        """
        value, single = record["pgd_accuracy"], record["fgsm_accuracy"]
        least = _DROP if single - value >= _DROP else _FAR
        fell = value < _SHARE * self.best and self.best - max(value, self.chance) >= least
        collapse = not rising and (fell or (value < _SHARE * single and single - value >= _GAP))
        record["catastrophic_overfitting"] = float(collapse and not self.collapsed)
        if collapse and not self.collapsed:
            self.collapsed = True
            logger.warning(
                "Catastrophic overfitting in epoch %d: accuracy is %.1f %% under PGD (at best %.1f %% before), and "
                "%.1f %% under a single step. %s",
                record["epoch"], 100 * value, 100 * self.best, 100 * single, self._advice(),
            )  # fmt: skip
        if not collapse:
            self.collapsed = False  # training that goes on may recover, and collapse once more
        if not collapse and value >= self.best:
            self.best = value
            if self.action == "roll_back":
                self.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        if self.predicts:
            record["overfitting_predicted"] = float(self.predicted)
        return (self.collapsed or self.predicted) and self.action != "report"

    def _advice(self) -> str:
        if self.action == "roll_back" and not self.weights:
            return f"Training stops with the weights as they are: no epoch before it was better. {_REMEDY}"
        return _ADVICE[self.action]

    def state_dict(self) -> dict[str, Any]:
        """The state, for a checkpoint."""
        seen = {"cosine": self.cosine, "alike": self.alike, "predicted": self.predicted}
        return {"best": self.best, "collapsed": self.collapsed, "weights": self.weights, **seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.best, self.collapsed, self.weights = state["best"], state["collapsed"], state["weights"]
        self.cosine, self.alike = state.get("cosine"), state.get("alike", False)
        self.predicted = state.get("predicted", False)


_REMEDY = (
    "A smaller eps_step, more noise (NFGSM), PGD of several steps, or penalties on the adversarial pair prevent it."
)
_ADVICE = {
    "report": f"Training goes on. {_REMEDY}",
    "stop": f"Training stops with the weights as they are. {_REMEDY}",
    "roll_back": f"Training stops with the weights of the best epoch before. {_REMEDY}",
}
