"""Attacks aimed at the usual reasons why a gradient attack fails for a bad reason: starts, scales, single losses."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from art.estimators.classification import PyTorchClassifier

from art_sensreg.attacks.ascent import Ascent, LossFunction, ascend, loss_on_logits, margin_of
from art_sensreg.attacks.losses import cross_entropy, margin, targeted_margin
from art_sensreg.attacks.norms import Ball
from art_sensreg.attacks.other_classes import likely_classes, random_donors
from art_sensreg.attacks.projected import ProjectedAscent, Victim
from art_sensreg.utils import check_choice, check_count, check_number

logger = logging.getLogger(__name__)

STARTS = ("border", "others", "inside")


def start_at(kind: str, victim: Victim) -> torch.Tensor:
    """
    A start of a kind.

    :param kind: `border`: the border of the ball (a corner in L-inf); `others`: a step towards a random image of
        another class, cut to the ball (from the border where there is none); `inside`: somewhere in the ball.
    :param victim: What is attacked.
    :return: Perturbed images.

    Example:
    >>> from art_sensreg.attacks.aimed import start_at
    >>> x, y = torch.tensor([[0.2], [0.8]]), torch.tensor([0, 1])
    >>> start_at("others", Victim(torch.nn.Identity(), x, y, Ball("linf", 0.1), 0, torch.Generator(), (x, y)))
    tensor([[0.3000],
            [0.7000]])
    """
    check_choice("kind", kind, STARTS)
    ball, x = victim.ball, victim.x
    if kind == "inside":
        return ball.inside(x, victim.generator)
    border = ball.border(x, victim.generator)
    if kind == "border":
        return border
    donors, found = random_donors(x, victim.y, victim.pool, victim.generator)
    return torch.where(found.view(-1, *[1] * (x.ndim - 1)), ball.project(x, donors), border)


def unit_scale_cross_entropy(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """
    Cross-entropy of logits that are divided by the size of their own margin, wherever the ascent stands.

    The probabilities of logits times 1000 are 0 and 1 in floating point, with a gradient of exactly zero; those of
    logits with a margin of 1 never are.

    :param logits: `(n, C)`.
    :param y: Class indices `(n,)`.
    :return: `(n,)`.

    Example:
    >>> from art_sensreg.attacks.aimed import unit_scale_cross_entropy
    >>> unit_scale_cross_entropy(torch.tensor([[3000.0, 0.0], [3e-6, 0.0]]), torch.tensor([0, 0]))
    tensor([0.3133, 0.3133])
    """
    fixed = logits.detach()
    least = 1e-6 * fixed.abs().amax(1) + torch.finfo(logits.dtype).tiny
    return cross_entropy(logits / torch.maximum(margin(fixed, y).abs(), least)[:, None], y)


class FarStartsAttack(ProjectedAscent):
    """
    Projected ascent from many far starts, for models that are flat around the images.

    By turns: the border of the ball (a corner in L-inf), a step towards an image of another class of the same batch cut
    to the ball, and somewhere inside.

    | Paper link: https://arxiv.org/abs/1705.07204 (Tramer et al. 2018: flat around the images, not beyond)

    :param estimator: ART PyTorch classifier.
    :param nb_restarts: Number of starts.
    :param settings: As for :class:`ProjectedAscent`.
    :raises TypeError: If a setting is of a wrong type.
    :raises ValueError: If a setting is out of range.

    Example:
    >>> import numpy as np
    >>> from art_sensreg.attacks import FarStartsAttack
    >>> model, loss = torch.nn.Identity(), torch.nn.CrossEntropyLoss()
    >>> classifier = PyTorchClassifier(model, loss, (2,), 2, clip_values=(0.0, 1.0))
    >>> FarStartsAttack(classifier, eps=0.1).generate(np.array([[0.6, 0.5]], dtype=np.float32)).round(2)
    array([[0.5, 0.6]], dtype=float32)
    """

    def __init__(self, estimator: PyTorchClassifier, nb_restarts: int = 20, **settings: Any) -> None:
        super().__init__(estimator, nb_restarts=nb_restarts, **settings)

    def get_start(self, victim: Victim) -> torch.Tensor:
        """
        Where a restart begins.

        :param victim: What is attacked.
        :return: Perturbed images.
        """
        return start_at(STARTS[victim.restart % len(STARTS)], victim)


class ScaledLogitsAttack(ProjectedAscent):
    """
    Projected ascent on the cross-entropy of scaled logits, and of a float64 copy of the model.

    Large logits hide the gradient behind a softmax that is 0 or 1 in float32; small ones behind rounding. For each
    scale one ascent on logits times that, one on logits brought to unit scale wherever the ascent stands, and one on
    those of the copy, whose inner functions saturate later.

    | Paper link: https://arxiv.org/abs/1608.04644 (Carlini and Wagner 2017, section IV: defensive distillation)

    :param estimator: ART PyTorch classifier.
    :param scales: Factors of the logits.
    :param double: Whether a float64 copy of the model is attacked too. A model that cannot be copied, or does not
        compute in float64, is attacked as it is, with a warning.
    :param nb_restarts: Number of restarts of each.
    :param settings: As for :class:`ProjectedAscent`; `loss` is the cross-entropy.
    :raises TypeError: If a setting is of a wrong type.
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
        """How often an image is attacked at most."""
        return self.nb_restarts * (len(self.scales) + 1 + self.double)

    def attempt(self, victim: Victim) -> Ascent:
        """
        One restart.

        :param victim: What is attacked.
        :return: What was found; its margins are those of the attacked model.
        """
        kind = victim.restart // self.nb_restarts
        if kind == len(self.scales) + 1:
            return self._in_double(victim)
        return super().attempt(victim)

    def get_loss_fn(self, victim: Victim) -> LossFunction:
        """
        The loss that a restart maximises.

        :param victim: What is attacked.
        :return: Function of perturbed images, to the loss of each and the logits.
        """
        kind = victim.restart // self.nb_restarts
        if kind >= len(self.scales):
            return loss_on_logits(victim.model, victim.y, unit_scale_cross_entropy)
        scale = float(self.scales[kind])
        return loss_on_logits(victim.model, victim.y, lambda logits, y: cross_entropy(scale * logits, y))

    def _in_double(self, victim: Victim) -> Ascent:
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
        found = ascend(loss_fn, x, victim.y, precise, start, self.get_step(victim), self.max_iter, self.schedule)
        perturbed = ball.project(victim.x, found.perturbed.to(victim.x))
        return replace(found, perturbed=perturbed, margin=margin_of(victim.model, perturbed, victim.y))

    def _check_params(self) -> None:
        super()._check_params()
        if isinstance(self.scales, str) or not isinstance(self.scales, Sequence):
            raise TypeError(f"`scales` is {self.scales!r}; expected a list of numbers above 0.")
        for scale in self.scales:
            check_number("scales", scale, minimum=0.0, exclusive=True)
        if not isinstance(self.double, bool):
            raise TypeError(f"`double` is {self.double!r}; expected True or False.")
        if not self.scales and not self.double:
            raise ValueError("`scales` is empty and `double` False; expected one of them to attack.")


class TargetedMarginAttack(ProjectedAscent):
    """
    Projected ascent on the margin of one other class after the other, the most likely ones first.

    | Paper link: https://arxiv.org/abs/1910.09338 (Gowal et al. 2019: one ascent for each target class)

    :param estimator: ART PyTorch classifier.
    :param nb_targets: Number of target classes; None: 9, or all if there are fewer.
    :param nb_restarts: Number of restarts for each.
    :param settings: As for :class:`ProjectedAscent`; `loss` is the margin of the target class.
    :raises TypeError: If a setting is of a wrong type.
    :raises ValueError: If a setting is out of range, or there are not that many other classes.

    Example:
    >>> import numpy as np
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
        """How often an image is attacked at most."""
        targets = min(9, self.estimator.nb_classes - 1) if self.nb_targets is None else self.nb_targets
        return self.nb_restarts * targets

    def get_loss_fn(self, victim: Victim) -> LossFunction:
        """
        The loss that a restart maximises.

        :param victim: What is attacked.
        :return: Function of perturbed images, to the loss of each and the logits.
        """
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
