"""Projected ascent from many far starts."""

from __future__ import annotations

from typing import Any

import torch
from art.estimators.classification import PyTorchClassifier

from art_sensreg.attacks.base.norms import per_example
from art_sensreg.attacks.base.other_classes import random_guides
from art_sensreg.attacks.projected_ascent import ProjectedAscent, Victim
from art_sensreg.utils import check_choice

STARTS = ("border", "others", "inside")


def start_at(kind: str, victim: Victim) -> torch.Tensor:
    """
    Starts on the `border` of the ball (corners in L-inf), `inside` of it, or towards `others`.

    The last is a step towards a random image of another class, projected onto the ball; if there is none, a start on
    the border.
    """
    check_choice("kind", kind, STARTS)
    ball, x = victim.ball, victim.x
    if kind == "inside":
        return ball.inside(x, victim.generator)
    border = ball.border(x, victim.generator)
    if kind == "border":
        return border
    guides, found = random_guides(x, victim.y, victim.pool, victim.generator)
    return torch.where(per_example(found, x), ball.project(x, guides), border)


class FarStartsAttack(ProjectedAscent):
    """
    Projected ascent from many far starts, for models that are flat around the images.

    Starts alternate between the border of the ball (a corner in L-inf), a step towards an image of another class from
    the same batch, projected onto the ball, and a random point inside.

    | Paper link: https://arxiv.org/abs/1705.07204 (Tramer et al. 2018: flat around the images, not beyond)

    :param estimator: ART PyTorch classifier.
    :param nb_restarts: Number of starts.
    :param settings: As for :class:`ProjectedAscent`.
    :raises TypeError: If a setting has the wrong type.
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
        """Each kind of start in turn."""
        return start_at(STARTS[victim.restart % len(STARTS)], victim)
