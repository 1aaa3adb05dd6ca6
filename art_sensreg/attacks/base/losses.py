"""Losses that attacks maximise, one value for each image."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

LogitsLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def cross_entropy(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """
    Cross-entropy.

    :param logits: `(n, C)`.
    :param y: Class indices `(n,)`.
    :return: `(n,)`.

    Example:
    >>> from art_sensreg.attacks.base.losses import cross_entropy
    >>> cross_entropy(torch.zeros(1, 4), torch.tensor([0])).exp()
    tensor([4.])
    """
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """
    Largest other logit minus that of the label: above 0 where the prediction is wrong.

    | Paper link: https://arxiv.org/abs/1608.04644 (Carlini and Wagner 2017, the loss f6 without its floor)

    :param logits: `(n, C)`.
    :param y: Class indices `(n,)`.
    :return: `(n,)`.

    Example:
    >>> from art_sensreg.attacks.base.losses import margin
    >>> margin(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]))
    tensor([-1.])
    """
    label = logits.gather(1, y[:, None])[:, 0]
    return logits.scatter(1, y[:, None], -float("inf")).amax(1) - label


def logits_ratio(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """
    Difference of logits ratio: the margin over the distance of the first and the third logit, whatever their scale.

    | Paper link: https://arxiv.org/abs/2003.01690 (Croce and Hein 2020, equation 6)

    :param logits: `(n, C)`; with two classes, over the sum of their sizes.
    :param y: Class indices `(n,)`.
    :return: `(n,)`.

    Example:
    >>> from art_sensreg.attacks.base.losses import logits_ratio
    >>> logits_ratio(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]))
    tensor([-0.5000])
    """
    ordered = logits.sort(dim=1, descending=True).values
    spread = ordered[:, 0] - ordered[:, 2] if logits.shape[1] > 2 else logits.abs().sum(1)
    return margin(logits, y) / (spread + 1e-12)


def targeted_margin(target: torch.Tensor) -> LogitsLoss:
    """
    The logit of a target class minus that of the label.

    :param target: Class that each image shall be taken for, `(n,)`.
    :return: Loss of logits and labels.

    Example:
    >>> from art_sensreg.attacks.base.losses import targeted_margin
    >>> targeted_margin(torch.tensor([1]))(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]))
    tensor([-2.])
    """

    def loss(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return logits.gather(1, target[:, None])[:, 0] - logits.gather(1, y[:, None])[:, 0]

    return loss


def unit_scale_cross_entropy(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """
    Cross-entropy of logits that are divided by the size of their own margin, wherever the ascent stands.

    The probabilities of logits times 1000 are 0 and 1 in floating point, with a gradient of exactly zero; those of
    logits with a margin of 1 never are.

    :param logits: `(n, C)`.
    :param y: Class indices `(n,)`.
    :return: `(n,)`.

    Example:
    >>> from art_sensreg.attacks.base.losses import unit_scale_cross_entropy
    >>> unit_scale_cross_entropy(torch.tensor([[3000.0, 0.0], [3e-6, 0.0]]), torch.tensor([0, 0]))
    tensor([0.3133, 0.3133])
    """
    fixed = logits.detach()
    least = 1e-6 * fixed.abs().amax(1) + torch.finfo(logits.dtype).tiny
    return cross_entropy(logits / torch.maximum(margin(fixed, y).abs(), least)[:, None], y)


LOSSES: dict[str, LogitsLoss] = {"cross_entropy": cross_entropy, "margin": margin, "logits_ratio": logits_ratio}
