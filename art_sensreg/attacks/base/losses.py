"""Losses that attacks maximise: from logits `(n, C)` and class indices `(n,)` to one value for each image, `(n,)`."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

LogitsLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def cross_entropy(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Cross-entropy."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """
    Largest other logit minus that of the label: above 0 where the prediction is wrong.

    | Paper link: https://arxiv.org/abs/1608.04644 (Carlini and Wagner 2017, the loss f6 without its floor)
    """
    label = logits.gather(1, y[:, None])[:, 0]
    return logits.scatter(1, y[:, None], -float("inf")).amax(1) - label


def logits_ratio(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """
    Difference of logits ratio: the margin divided by the gap between the largest and the third largest logit.

    It is invariant to the scale of the logits. With two classes the divisor is the sum of their absolute values.

    | Paper link: https://arxiv.org/abs/2003.01690 (Croce and Hein 2020, equation 6)
    """
    ordered = logits.sort(dim=1, descending=True).values
    spread = ordered[:, 0] - ordered[:, 2] if logits.shape[1] > 2 else logits.abs().sum(1)
    return margin(logits, y) / (spread + 1e-12)


def targeted_margin(target: torch.Tensor) -> LogitsLoss:
    """The logit of each image's target class, `(n,)`, minus that of the label."""

    def loss(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return logits.gather(1, target[:, None])[:, 0] - logits.gather(1, y[:, None])[:, 0]

    return loss


def unit_scale_cross_entropy(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """
    Cross-entropy of logits divided by the absolute value of their current margin.

    Logits multiplied by 1000 give probabilities of exactly 0 and 1 in floating point, and a zero gradient; logits with
    a margin of 1 never do.
    """
    fixed = logits.detach()
    least = 1e-6 * fixed.abs().amax(1) + torch.finfo(logits.dtype).tiny
    return cross_entropy(logits / torch.maximum(margin(fixed, y).abs(), least)[:, None], y)


LOSSES: dict[str, LogitsLoss] = {"cross_entropy": cross_entropy, "margin": margin, "logits_ratio": logits_ratio}
