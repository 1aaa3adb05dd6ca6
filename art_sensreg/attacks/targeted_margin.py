"""Projected ascent on the margin of each other class."""

from __future__ import annotations

from typing import Any, ClassVar

from art.estimators.classification import PyTorchClassifier

from art_sensreg.attacks.base.ascent import LossFunction, loss_on_logits
from art_sensreg.attacks.base.losses import targeted_margin
from art_sensreg.attacks.base.other_classes import likely_classes
from art_sensreg.attacks.projected_ascent import ProjectedAscent, Victim
from art_sensreg.utils import check_count


class TargetedMarginAttack(ProjectedAscent):
    """
    Projected ascent on the margin of each other class in turn, the most likely ones first.

    | Paper link: https://arxiv.org/abs/1910.09338 (Gowal et al. 2019: one ascent for each target class)

    :param estimator: ART PyTorch classifier.
    :param nb_targets: Number of target classes; None: 9, or all if there are fewer.
    :param nb_restarts: Number of restarts for each.
    :param settings: As for :class:`ProjectedAscent`; `loss` is the margin of the target class.
    :raises TypeError: If a setting has the wrong type.
    :raises ValueError: If a setting is out of range, or there are not that many other classes.

    Example:
    >>> import numpy as np, torch
    >>> from art_sensreg.attacks import TargetedMarginAttack
    >>> model, loss = torch.nn.Identity(), torch.nn.CrossEntropyLoss()
    >>> classifier = PyTorchClassifier(model, loss, (2,), 2, clip_values=(0.0, 1.0))
    >>> TargetedMarginAttack(classifier, eps=0.1).generate(np.array([[0.6, 0.5]], dtype=np.float32)).round(2)
    array([[0.5, 0.6]], dtype=float32)
    """

    attack_params: ClassVar[list[str]] = [*ProjectedAscent.attack_params, "nb_targets"]

    def __init__(
        self, estimator: PyTorchClassifier, nb_targets: int | None = None, nb_restarts: int = 1, **settings: Any
    ) -> None:
        self.nb_targets = nb_targets
        super().__init__(estimator, nb_restarts=nb_restarts, **settings)

    @property
    def attempts(self) -> int:
        """The maximum number of restarts per image."""
        targets = min(9, self.estimator.nb_classes - 1) if self.nb_targets is None else self.nb_targets
        return self.nb_restarts * targets

    def get_loss_fn(self, victim: Victim) -> LossFunction:
        """The margin of the restart's target class."""
        target = likely_classes(victim.model, victim.x, victim.y)[:, victim.restart // self.nb_restarts]
        return loss_on_logits(victim.model, victim.y, targeted_margin(target))

    def _check_params(self) -> None:
        super()._check_params()
        if self.nb_targets is None:
            return
        check_count("nb_targets", self.nb_targets)
        others = self.estimator.nb_classes - 1
        if self.nb_targets > others:
            raise ValueError(
                f"`nb_targets` is {self.nb_targets}; expected at most {others}, the number of other classes."
            )
