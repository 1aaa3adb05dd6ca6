"""The long run on the few points that everything else has left."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier

from art_sensreg.attacks.base.ascent import Ascent, LossFunction, ascend, loss_on_logits
from art_sensreg.attacks.base.losses import LOSSES, targeted_margin, unit_scale_cross_entropy
from art_sensreg.attacks.base.other_classes import check_donors, likely_classes
from art_sensreg.attacks.base.predictions import labels_of, predicted_labels
from art_sensreg.attacks.far_starts import start_at
from art_sensreg.attacks.hidden_distance import TappedModel, hidden_loss
from art_sensreg.attacks.projected_ascent import ProjectedAscent, Victim
from art_sensreg.penalties.forward.taps import ActivationTaps, Layers, check_layers
from art_sensreg.utils import check_count

# Each list is gone through at its own pace; their lengths have no common factor, so that all combinations occur.
_LOSSES = ("cross_entropy", "targeted_margin", "logits_ratio", "towards", "margin", "away", "unit_scale")
_STARTS = ("inside", "others", "border")
# Schedules with the first step as a share of eps; None: the step that reaches the border from any start.
_STEPS: tuple[tuple[str, float | None], ...] = (
    ("cosine", 0.5),
    ("constant", None),
    ("cosine", 0.1),
    ("constant", 0.03),
)


class KitchenSinkAttack(ProjectedAscent):
    """
    Long projected ascent with everything in turn: losses, starts, schedules and step sizes.

    Restarts go through the losses cross-entropy, targeted margins, logits ratio, hidden activations towards those of
    another class, margin, away from their own, cross-entropy at unit scale; through starts inside, towards other
    classes and on the border; through schedules and step sizes.

    | Paper link: https://arxiv.org/abs/2002.08347 (Tramer et al. 2020: many losses and starts, not one attack)

    :param estimator: ART PyTorch classifier.
    :param max_iter: Number of steps.
    :param nb_restarts: Number of restarts.
    :param max_points: How many of the images that are classified rightly are attacked, the first ones; the others are
        returned as they are.
    :param layers: Layers of the hidden distances, as for :class:`HiddenDistanceAttack`.
    :param donors: Images and labels to move towards; None: those of the attacked batch.
    :param settings: As for :class:`ProjectedAscent`; `loss` and `schedule` are gone through, and with `eps_step` None
        the step sizes too.
    :raises TypeError: If a setting is of a wrong type.
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

    attack_params: ClassVar[list[str]] = [*ProjectedAscent.attack_params, "max_points", "layers", "donors"]

    def __init__(
        self,
        estimator: PyTorchClassifier,
        max_iter: int = 1000,
        nb_restarts: int = 20,
        max_points: int = 50,
        layers: Layers = "hidden",
        donors: Any = None,
        **settings: Any,
    ) -> None:
        self.max_points, self.layers, self.donors = max_points, layers, donors
        self.attacked = np.zeros(0, dtype=bool)
        super().__init__(estimator, max_iter=max_iter, nb_restarts=nb_restarts, **settings)

    def generate(self, x: np.ndarray, y: np.ndarray | None = None, **kwargs: Any) -> np.ndarray:
        """
        Perturb the first images that are classified rightly; `attacked` tells afterwards which.

        :param x: Images `(n, *input_shape)` of any real type, in the user's units, within `clip_values`.
        :param y: True labels; None: those that are predicted.
        :param kwargs: `mask` is not supported; an unknown argument is an error.
        :return: float32 images: misclassified where the attack succeeded, else the nearest to it that was met.
        :raises TypeError: If an argument is unknown, or `x` or `y` holds no numbers.
        :raises ValueError: If images or labels do not fit, images are outside of `clip_values`, or `mask` is given.
        """
        images = self._checked_images(x, kwargs)
        with self.undisturbed():
            predicted = predicted_labels(self.estimator, images)
        labels = predicted if y is None else labels_of(self.estimator, y, len(images))
        chosen = np.flatnonzero(predicted == labels)[: self.max_points]
        self.attacked = np.zeros(len(images), dtype=bool)
        self.attacked[chosen] = True
        images[chosen] = super().generate(images[chosen], labels[chosen])
        return images

    _generate = generate

    def get_pool(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The donors.

        :param x: The batch that is attacked.
        :param y: Its labels.
        :return: Images and class indices: those given, or the batch.
        """
        return (x, y) if self.donors is None else check_donors(self.estimator, self.donors)

    def get_loss_fn(self, victim: Victim) -> LossFunction:
        """
        The loss that a restart maximises.

        :param victim: What is attacked.
        :return: Function of perturbed images, to the loss of each and the logits.
        """
        name, turn = _LOSSES[victim.restart % len(_LOSSES)], victim.restart // len(_LOSSES)
        if name in ("towards", "away"):
            tapped = TappedModel.plan(victim.model, self.estimator.model, self.layers, victim.x)
            base = None if turn % 2 else "cross_entropy"
            return hidden_loss(tapped, victim, turn if name == "towards" else None, 1.0, base)
        if name == "targeted_margin":
            likely = likely_classes(victim.model, victim.x, victim.y)
            loss = targeted_margin(likely[:, turn % likely.shape[1]])
        else:
            loss = unit_scale_cross_entropy if name == "unit_scale" else LOSSES[name]
        return loss_on_logits(victim.model, victim.y, loss)

    def get_start(self, victim: Victim) -> torch.Tensor:
        """
        Where a restart begins.

        :param victim: What is attacked.
        :return: Perturbed images.
        """
        return start_at(_STARTS[victim.restart % len(_STARTS)], victim)

    def attempt(self, victim: Victim) -> Ascent:
        """
        One restart.

        :param victim: What is attacked.
        :return: What was found; its margins are those of the attacked model.
        """
        schedule, share = _STEPS[victim.restart % len(_STEPS)]
        step = self.get_step(victim) if share is None or self.eps_step is not None else share * self.eps
        loss_fn, start = self.get_loss_fn(victim), self.get_start(victim)
        return ascend(loss_fn, victim.x, victim.y, victim.ball, start, step, self.max_iter, schedule)

    def _check_params(self) -> None:
        super()._check_params()
        check_count("max_points", self.max_points)
        check_layers(self.layers)
        ActivationTaps(self.estimator.model, self.layers)  # refuses names that the model has not
        if self.donors is not None:
            check_donors(self.estimator, self.donors)


KitchenSinkAttack.generate = KitchenSinkAttack._generate  # type: ignore[method-assign] # as in ProjectedAscent
