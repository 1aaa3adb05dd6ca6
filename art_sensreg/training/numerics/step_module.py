"""The model and its objective as one module, and the precision in which their forward pass is computed."""

from __future__ import annotations

import logging

import torch
from torch import nn

from art_sensreg.adversaries.visits import Visit
from art_sensreg.objectives import Objective
from art_sensreg.penalties.forward.noise import Probes
from art_sensreg.penalties.inputs import Share
from art_sensreg.utils.precision import input_width, tf32_blurs

logger = logging.getLogger(__name__)

LOW_PRECISION_SIZES = {"noisy": 0.3, "adversarial": 0.03, "start": 0.03}
"""
Below this root mean square size of what penalties compare (of an input range of length 1) steps are computed in float32
whatever `precision` is.

The difference of two activations that are rounded to 8 bits is noise when they differ by little. What an adversary made
moves them several times as far as noise of its size; but a perturbation that has been carried for some epochs lies at
the border for most pixels, which a step then moves less than its size says.
"""

_LOW = {"bfloat16": torch.bfloat16, "float16": torch.float16}

Terms = dict[str, torch.Tensor]


class StepModule(nn.Module):
    """
    The model and its objective as one module, so that `DistributedDataParallel` sees one forward pass a step. The
    objective's own tensors come as a module (`own`): their gradients are averaged over the processes too.
    """

    def __init__(
        self, model: nn.Module, objective: Objective, precision: str = "float32", own: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.model, self.objective, self.own = model, objective, own
        self._width = input_width(objective.clip_values)
        self._least = LOW_PRECISION_SIZES[objective.compared_as] * self._width
        reason = _reason_for_float32(objective, precision, objective.smallest_sigma, self._least)
        self.low = None if reason else _LOW.get(precision)
        if reason and precision in _LOW:
            logger.warning("`precision` %r has no effect: steps are computed in float32, since %s.", precision, reason)

    @property
    def without_tf32(self) -> bool:
        """Whether TF32 would blur this step."""
        return tf32_blurs(self.objective.smallest_sigma, self._width)

    def forward(
        self, x: torch.Tensor, y: torch.Tensor, probes: Probes | None, share: Share, visit: Visit | None = None
    ) -> tuple[Terms, torch.Tensor]:
        smallest = self.objective.smallest_sigma
        # While `eps` rises, the first steps may be too small for the low precision of the others.
        if self.low is None or (smallest is not None and smallest < self._least):
            terms, logits = self.objective(self.model, x, y, probes, share, visit)
            return terms, logits
        with torch.autocast(x.device.type, dtype=self.low):
            terms, logits = self.objective(self.model, x, y, probes, share, visit)
        return terms, logits.float()


def _reason_for_float32(objective: Objective, precision: str, smallest: float | None, least: float) -> str:
    """Why low precision would not do, or nothing."""
    if smallest is not None and smallest < least:
        return (
            f"differences of activations are divided by {smallest:.3g}, below {least:.3g}, where rounding would drown "
            "them"
        )
    # The gradient of the first step is taken in the pass of the training step itself, without a gradient scaler. That
    # of a divergence from clean logits begins at 0.
    adversary = objective.adversary
    rounded = adversary is not None and (precision == "float16" or adversary.attacks_clean_logits)
    if rounded and objective.compared_as == "start":
        return "the adversary's first step would follow a gradient that is rounded away"
    return ""
