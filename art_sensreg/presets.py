"""
Recommended settings of the penalties by data set, in the units of the user's images.

The values were chosen on held-out training images of `digits` (all), `mnist` (SR and JR) and `cifar10` (with a carried
adversary), see docs/results/; the others of `cifar10` are carried over from papers and from the digits, not tuned. The
benchmark suite trains with them too.
`TrainingConfig.cheap()` is the preset for a smaller training budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from art.estimators.classification import PyTorchClassifier

from art_sensreg.art_bridge import check_clip_values, clip_bounds
from art_sensreg.penalties import JacobianPenalty, SensitivityPenalty
from art_sensreg.penalty_lists import Penalty
from art_sensreg.utils import check_choice

__all__ = ["PRESETS", "PenaltySettings", "default_penalties", "jr", "sr", "sr_jr"]

UNIT_RANGE = (0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class PenaltySettings:
    """
    Settings of the penalties for inputs in [0, 1]; the defaults are those of MNIST.

    :param sigma: Size of SR's noise.
    :param noise: Its kind in the benchmark suite, with JR. On MNIST random signs leave far more than normal
        numbers after many epochs, and less after few: the presets have normal noise.
    :param sr_weight: Weight of SR, alone or with JR.
    :param jr_weight: Weight of JR together with SR, whose noise it shares.
    :param fraction: Part of each batch on which the benchmark suite measures the two.
    :param jr_alone: Weight of JR without SR, by random projection.
    :param adversarial_sr: Weight of SR between clean and adversarial images.
    :param adversarial_jr: Weight of JR between clean and adversarial images.
    :param carried_sr: Weight of SR between start and end of a carried adversary's step.
    :param carried_jr: Weight of JR between start and end of a carried adversary's step.
    :param carried_step: Step of a carried adversary with SR and JR, as a share of its eps.
    :param carried_warmup: Share of its training over which the weights of SR and JR rise from 0.
    :param eps_warmup: Share of training over which the size of a carried adversary that has an attack pass rises from
        almost 0: at full size from the start, networks begin to learn late, or never.
    :param free_pair: What the penalties compare with a free carried adversary: `adversarial` images with clean ones
        (needs about 15 epochs), or the training images with `noisy` copies of themselves (better in shorter runs).
    :param free_sr: Weight of SR with a free carried adversary.
    :param free_jr: Weight of JR with a free carried adversary.
    :param free_step: Step of a free carried adversary, as a share of its eps: the more visits, the smaller.
    :param free_fraction: Part of each batch on which the penalties are measured with it.
    :param fire: Weight of FIRE.
    :param graddiv: Weight of GradDiv.
    :param kl: Factor of `KL / N` in Adv-BNN. The evidence lower bound has 1; with so many more weights than images,
        only the prior would then be learned.
    """

    sigma: float = 0.3
    noise: str = "gaussian"
    sr_weight: float = 1.0
    jr_weight: float = 0.1
    fraction: float = 1.0
    jr_alone: float = 0.01
    adversarial_sr: float = 0.1
    adversarial_jr: float = 0.01
    carried_sr: float = 0.15
    carried_jr: float = 0.015
    carried_step: float = 0.25
    carried_warmup: float = 0.5
    eps_warmup: float = 0.3
    free_pair: str = "adversarial"
    free_sr: float = 0.5
    free_jr: float = 0.05
    free_step: float = 0.0625
    free_fraction: float = 0.5
    fire: float = 5.0
    graddiv: float = 0.07
    kl: float = 0.004


PRESETS = {
    "digits": PenaltySettings(
        sr_weight=0.3, jr_alone=0.1, adversarial_sr=0.03, adversarial_jr=0.003, fire=1.0,
        carried_step=0.5, carried_warmup=0.0, eps_warmup=0.0,
        free_pair="noisy", free_sr=1.0, free_jr=0.1, free_step=0.25, free_fraction=1.0,
    ),
    "mnist": PenaltySettings(noise="rademacher", fraction=0.5),
    "cifar10": PenaltySettings(
        sigma=0.1, carried_sr=0.01, carried_jr=0.001, carried_step=0.5, carried_warmup=0.0,
        eps_warmup=0.0, free_step=0.25, free_fraction=1.0,
    ),
}  # fmt: skip


def sr_jr(dataset: str | None = None, clip_values: Any = UNIT_RANGE, *, adversarial: bool = False) -> list[Penalty]:
    """
    SR and JR in one pass, scaled to the range of the inputs: training on `255 * x` is equivalent to training on `x`.

    :param dataset: `digits`, `mnist`, `cifar10`; or None for the defaults of the penalties, which are those of `mnist`.
    :param clip_values: Range `(min, max)` of the inputs, numbers or arrays that broadcast to one input; None: [0, 1].
    :param adversarial: Whether they compare clean with adversarial images: the weights are then smaller.
    :return: The penalties, with `sigma` in the units of the inputs.
    :raises ValueError: If the data set is unknown, or `clip_values` is not a range.
    :raises TypeError: If `clip_values` does not hold numbers.

    Example:
    >>> from art_sensreg import presets
    >>> sr, jr = presets.sr_jr("mnist", clip_values=(0, 255))
    >>> sr.sigma, sr.weight, round(jr.weight, 6)
    (76.5, 65025.0, 6502.5)
    """
    settings, width = _settings(dataset), _width(clip_values)
    weights = (settings.sr_weight, settings.jr_weight)
    if adversarial:
        weights = (settings.adversarial_sr, settings.adversarial_jr)
    scale = _mean_square(width)
    return [
        SensitivityPenalty(weight=weights[0] * scale, sigma=settings.sigma * width),
        JacobianPenalty(weight=weights[1] * scale),
    ]


def sr(dataset: str | None = None, clip_values: Any = UNIT_RANGE) -> list[Penalty]:
    """
    SR alone; see :func:`sr_jr`.

    :param dataset: As there.
    :param clip_values: As there.
    :return: The penalty, in a list.

    Example:
    >>> from art_sensreg import presets
    >>> presets.sr("cifar10")[0].sigma
    0.1
    """
    return sr_jr(dataset, clip_values)[:1]


def jr(dataset: str | None = None, clip_values: Any = UNIT_RANGE) -> list[Penalty]:
    """
    JR alone, by random projection; see :func:`sr_jr`.

    :param dataset: As there.
    :param clip_values: As there, but one range for all features.
    :return: The penalty, in a list.
    :raises ValueError: If features have ranges of different widths, too.

    Example:
    >>> from art_sensreg import presets
    >>> presets.jr("mnist")[0].weight
    0.01
    """
    settings, width = _settings(dataset), _width(clip_values)
    if isinstance(width, np.ndarray):
        raise ValueError("`clip_values` has ranges of different widths; expected one width, which a projection has.")
    return [JacobianPenalty(weight=settings.jr_alone * width**2, estimator="projection")]


def default_penalties(classifier: PyTorchClassifier) -> tuple[Penalty, ...]:
    """
    The penalties that a classifier is trained with if none are named.

    :param classifier: ART `PyTorchClassifier`, or a subclass.
    :return: Its own penalties, if it has some; else SR and JR with their defaults, scaled to its `clip_values`.

    Example:
    >>> import torch
    >>> from art.estimators.classification import PyTorchClassifier
    >>> from art_sensreg.presets import default_penalties
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> classifier = PyTorchClassifier(model, torch.nn.CrossEntropyLoss(), (4,), 2, clip_values=(0, 1))
    >>> [type(penalty).__name__ for penalty in default_penalties(classifier)]
    ['SensitivityPenalty', 'JacobianPenalty']
    """
    own: Sequence[Penalty] = getattr(classifier, "penalties", ())
    if own:
        return tuple(own)
    clip_values = classifier.clip_values
    return tuple(sr_jr(None, None if clip_values is None else clip_bounds(clip_values, classifier.input_shape)))


def _settings(dataset: str | None) -> PenaltySettings:
    if dataset is None:
        return PenaltySettings()
    check_choice("dataset", dataset, tuple(PRESETS))
    return PRESETS[dataset]


def _width(clip_values: Any) -> Any:
    """Width of the input range: a number, or an array where features differ."""
    if clip_values is None:
        return 1.0
    check_clip_values(clip_values)
    low, high = (np.asarray(bound, dtype=np.float64) for bound in clip_values)
    widths = high - low
    first = float(widths.flat[0])
    return first if (widths == first).all() else widths


def _mean_square(width: Any) -> float:
    """The factor by which squared gradients shrink as the range grows; of several ranges the mean square counts."""
    return float(np.mean(np.square(width)))
