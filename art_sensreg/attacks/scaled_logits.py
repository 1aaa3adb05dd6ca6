"""Projected ascent on logits of other scales, and in float64."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from art.estimators.classification import PyTorchClassifier

from art_sensreg.attacks.base.ascent import AscentResult, LossFunction, ascend, loss_on_logits, margin_of
from art_sensreg.attacks.base.losses import cross_entropy, unit_scale_cross_entropy
from art_sensreg.attacks.base.norms import Ball
from art_sensreg.attacks.projected_ascent import ProjectedAscent, Victim
from art_sensreg.utils import check_flag, check_number

logger = logging.getLogger(__name__)


class ScaledLogitsAttack(ProjectedAscent):
    """
    Projected ascent on the cross-entropy of scaled logits, and of a float64 copy of the model.

    Large logits hide the gradient behind a softmax that is 0 or 1 in float32; small ones behind rounding. There is one
    ascent on the logits multiplied by each scale, one on the logits normalised to unit scale at every step, and one on
    the logits of a float64 copy, whose inner functions saturate later.

    | Paper link: https://arxiv.org/abs/1608.04644 (Carlini and Wagner 2017, section IV: defensive distillation)

    :param estimator: ART PyTorch classifier.
    :param scales: Factors of the logits.
    :param double: Whether a float64 copy of the model is attacked too. A model that cannot be copied, or does not
        compute in float64, is attacked as it is, with a warning.
    :param nb_restarts: Number of restarts of each.
    :param settings: As for :class:`ProjectedAscent`; `loss` is the cross-entropy.
    :raises TypeError: If a setting has the wrong type.
    :raises ValueError: If a setting is out of range.

    Example:
    >>> from art_sensreg.attacks import ScaledLogitsAttack
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = model.weight.data.copy_(1e6 * torch.eye(2))
    >>> classifier = PyTorchClassifier(model, torch.nn.CrossEntropyLoss(), (2,), 2, clip_values=(0.0, 1.0))
    >>> import numpy as np
    >>> x = np.array([[0.6, 0.5]], dtype=np.float32)
    >>> classifier.predict(ScaledLogitsAttack(classifier, eps=0.1).generate(x)).argmax(axis=1).tolist()
    [1]
    """

    attack_params: ClassVar[list[str]] = [*ProjectedAscent.attack_params, "scales", "double"]

    def __init__(
        self,
        estimator: PyTorchClassifier,
        scales: Sequence[float] = (1.0, 10.0, 100.0),
        double: bool = True,
        nb_restarts: int = 1,
        **settings: Any,
    ) -> None:
        self.scales, self.double = scales, double
        super().__init__(estimator, nb_restarts=nb_restarts, **settings)

    @property
    def attempts(self) -> int:
        """The maximum number of restarts per image."""
        return self.nb_restarts * (len(self.scales) + 1 + self.double)

    def attempt(self, victim: Victim) -> AscentResult:
        """One restart; the last ones attack the float64 copy."""
        if victim.restart // self.nb_restarts == len(self.scales) + 1:
            return self._in_double(victim)
        return super().attempt(victim)

    def get_loss_fn(self, victim: Victim) -> LossFunction:
        """Cross-entropy of the logits times the scale of the restart; after all scales, at unit scale."""
        kind = victim.restart // self.nb_restarts
        if kind >= len(self.scales):
            return loss_on_logits(victim.model, victim.y, unit_scale_cross_entropy)
        scale = float(self.scales[kind])
        return loss_on_logits(victim.model, victim.y, lambda logits, y: cross_entropy(scale * logits, y))

    def _in_double(self, victim: Victim) -> AscentResult:
        start = self.get_start(victim).double()
        try:
            model = copy.deepcopy(victim.model).double()
            margin_of(model, start[:2], victim.y[:2])
        except Exception as error:  # noqa: BLE001 - a model may refuse to be copied or converted in any way
            logger.warning("No float64 copy of the model (%s: %s).", type(error).__name__, error)
            return super().attempt(victim)
        ball, x = victim.ball, victim.x.double()
        precise = Ball(ball.norm, ball.eps, *(torch.as_tensor(end).to(x) for end in (ball.low, ball.high)))
        loss_fn = loss_on_logits(model, victim.y, unit_scale_cross_entropy)
        found = ascend(loss_fn, x, victim.y, precise, start, self.get_steps(victim))
        perturbed = ball.project(victim.x, found.perturbed.to(victim.x))
        return replace(found, perturbed=perturbed, margin=margin_of(victim.model, perturbed, victim.y))

    def _check_params(self) -> None:
        super()._check_params()
        if isinstance(self.scales, str) or not isinstance(self.scales, Sequence):
            raise TypeError(f"`scales` is {self.scales!r}; expected a list of numbers above 0.")
        for scale in self.scales:
            check_number("scales", scale, minimum=0.0, exclusive=True)
        check_flag("double", self.double)
        if not self.scales and not self.double:
            raise ValueError("`scales` is empty and `double` False; expected one of them to attack.")
