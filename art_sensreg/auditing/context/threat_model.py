"""The perturbations that an audit considers: their norm and size, and the range of the images."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import torch

from art_sensreg.attacks.base.norms import Ball
from art_sensreg.auditing.context.audited_model import AuditedModel
from art_sensreg.auditing.context.inputs import AuditInputs


class ThreatModel:
    """Norm and eps of an audit, with the range that the classifier's `clip_values` give the images."""

    def __init__(self, inputs: AuditInputs, model: AuditedModel) -> None:
        self.eps, self.norm = inputs.eps, inputs.norm
        self._x, self._model = inputs.x, model

    @property
    def clip(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest value of each pixel, or of all pixels; infinite without `clip_values`."""
        clip = self._model.classifier.clip_values
        low, high = (-np.inf, np.inf) if clip is None else clip
        return np.asarray(low), np.asarray(high)

    @cached_property
    def range(self) -> tuple[float, float]:
        """Smallest and largest allowed value; without `clip_values`, the extremes of the given images."""
        low, high = (float(end) for end in (self.clip[0].min(), self.clip[1].max()))
        return (low, high) if math.isfinite(high - low) else (float(self._x.min()), float(self._x.max()))

    @property
    def width(self) -> float:
        """Width of that range."""
        return self.range[1] - self.range[0]

    def ball(self, eps: float | None = None) -> Ball:
        """The perturbations of size `eps`; the audit's eps if None."""
        low, high = (torch.as_tensor(end, dtype=self._model.dtype, device=self._model.device) for end in self.clip)
        return Ball(self.norm, self.eps if eps is None else eps, low, high)

    def large_eps(self, share: float) -> float:
        """The eps whose ball allows every pixel to change by this share of the range at the same time."""
        pixels = int(np.prod(self._x.shape[1:]))
        return share * self.width * {"linf": 1.0, "l2": math.sqrt(pixels), "l1": float(pixels)}[self.norm]
