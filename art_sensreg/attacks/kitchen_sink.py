"""A long attack on the few images that all others have failed to break."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier

from art_sensreg.attacks.base.ascent import LossFunction, Steps, loss_on_logits
from art_sensreg.attacks.base.inputs import attack_images
from art_sensreg.attacks.base.losses import LOSSES, targeted_margin, unit_scale_cross_entropy
from art_sensreg.attacks.base.other_classes import likely_classes
from art_sensreg.attacks.base.predictions import labels_of, predicted_labels
from art_sensreg.attacks.far_starts import start_at
from art_sensreg.attacks.hidden_distance import GuidedAscent, HiddenLoss
from art_sensreg.attacks.projected_ascent import Victim
from art_sensreg.penalties.forward.taps import Layers
from art_sensreg.utils import check_count

# Restarts cycle through all lists; their lengths have no common factor, so that all combinations occur.
_LOSSES = ("cross_entropy", "targeted_margin", "logits_ratio", "towards", "margin", "away", "unit_scale")
_STARTS = ("inside", "others", "border")
# Schedules with the first step as a share of eps; None: the step that reaches the border from any start.
_STEPS: tuple[tuple[str, float | None], ...] = (
    ("cosine", 0.5),
    ("constant", None),
    ("cosine", 0.1),
    ("constant", 0.03),
)


class KitchenSinkAttack(GuidedAscent):
    """
    Long projected ascent that tries everything in turn: losses, starts, schedules and step sizes.

    Restarts cycle through the losses cross-entropy, targeted margins, logits ratio, hidden activations towards those of
    another class, margin, away from their own, cross-entropy at unit scale; through starts inside, towards other
    classes and on the border; through schedules and step sizes.

    | Paper link: https://arxiv.org/abs/2002.08347 (Tramer et al. 2020: many losses and starts, not one attack)

    :param estimator: ART PyTorch classifier.
    :param max_iter: Number of steps.
    :param nb_restarts: Number of restarts.
    :param max_points: How many of the correctly classified images are attacked, the first ones; the others are
        returned as they are.
    :param layers: Layers of the hidden distances, as for :class:`HiddenDistanceAttack`.
    :param guides: Images and labels to move towards; None: those of the attacked batch.
    :param settings: As for :class:`ProjectedAscent`; `loss` and `schedule` have no effect, and with `eps_step` None the
        step sizes vary too.
    :raises TypeError: If a setting has the wrong type.
    :raises ValueError: If a setting is out of range, or the model has no such layer.

    Example:
    >>> from art_sensreg.attacks import KitchenSinkAttack
    >>> classifier = PyTorchClassifier(torch.nn.Identity(), torch.nn.CrossEntropyLoss(), (2,), 2)
    >>> attack = KitchenSinkAttack(classifier, eps=0.1, max_points=1)
    >>> x = np.array([[0.5, 0.6], [0.6, 0.5], [0.6, 0.5]], dtype=np.float32)
    >>> classifier.predict(attack.generate(x, np.array([0, 0, 0]))).argmax(axis=1).tolist()
    [1, 1, 0]
    >>> attack.attacked.tolist()
    [False, True, False]
    """

    attack_params: ClassVar[list[str]] = [*GuidedAscent.attack_params, "max_points"]

    def __init__(
        self,
        estimator: PyTorchClassifier,
        max_iter: int = 1000,
        nb_restarts: int = 20,
        max_points: int = 50,
        layers: Layers = "hidden",
        guides: Any = None,
        **settings: Any,
    ) -> None:
        self.max_points, self.layers, self.guides = max_points, layers, guides
        self.attacked = np.zeros(0, dtype=bool)
        """Which images the last call attacked, `(n,)`."""
        super().__init__(estimator, max_iter=max_iter, nb_restarts=nb_restarts, **settings)

    def _generate(self, x: Any, y: Any) -> np.ndarray:
        images = attack_images(x, self.estimator)
        with self.isolated():
            predicted = predicted_labels(self.estimator, images)
        labels = predicted if y is None else labels_of(self.estimator, y, len(images))
        chosen = np.flatnonzero(predicted == labels)[: self.max_points]
        self.attacked = np.zeros(len(images), dtype=bool)
        self.attacked[chosen] = True
        images[chosen] = super()._generate(images[chosen], labels[chosen])
        return images

    def get_loss_fn(self, victim: Victim) -> LossFunction:
        """Each loss in turn."""
        name, turn = _LOSSES[victim.restart % len(_LOSSES)], victim.restart // len(_LOSSES)
        if name in ("towards", "away"):
            guide, base = turn if name == "towards" else None, None if turn % 2 else "cross_entropy"
            return self.get_hidden_loss_fn(victim, HiddenLoss(guide=guide, base=base))
        if name == "targeted_margin":
            likely = likely_classes(victim.model, victim.x, victim.y)
            loss = targeted_margin(likely[:, turn % likely.shape[1]])
        else:
            loss = unit_scale_cross_entropy if name == "unit_scale" else LOSSES[name]
        return loss_on_logits(victim.model, victim.y, loss)

    def get_start(self, victim: Victim) -> torch.Tensor:
        """Each kind of start in turn."""
        return start_at(_STARTS[victim.restart % len(_STARTS)], victim)

    def get_steps(self, victim: Victim) -> Steps:
        """Each schedule and, unless `eps_step` is given, each step size in turn."""
        schedule, share = _STEPS[victim.restart % len(_STEPS)]
        step = super().get_steps(victim).eps_step if share is None or self.eps_step is not None else share * self.eps
        return Steps(eps_step=step, max_iter=self.max_iter, schedule=schedule)

    def _check_params(self) -> None:
        super()._check_params()
        check_count("max_points", self.max_points)
