"""A classifier of images in [0, 1], as other libraries' attacks expect it, and the conversion to the user's units."""

from __future__ import annotations

import math

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.attacks.autoattack.backend import default_dtype
from art_sensreg.attacks.wrappers.torch_model import differentiable_model
from art_sensreg.utils import shown
from art_sensreg.utils.norms import norm_name


class RescaledModel(nn.Module):
    """
    A classifier, in evaluation mode, as a module from images of another shape in [0, 1] to its logits, and the change
    of units. It must be one of ART's PyTorch classifiers, with `clip_values` that are the same for all channels.
    """

    def __init__(self, classifier: PyTorchClassifier, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.model = differentiable_model(classifier)
        self.low, self.width = _range(classifier)
        self.user_shape, self.shape = tuple(classifier.input_shape), tuple(shape)
        self.default_dtype = torch.get_default_dtype()
        self.eval()

    def forward(self, scaled: torch.Tensor) -> torch.Tensor:
        if self.shape != self.user_shape:
            scaled = scaled.reshape(len(scaled), *self.user_shape)
        with default_dtype(self.default_dtype):
            x = scaled if self._same_units else self.low + self.width * scaled
            # A copy: Square writes into the logits, which are the images themselves if the model returns a view.
            logits: torch.Tensor = self.model(x).clone()
        return logits

    def rescale(self, x: np.ndarray) -> np.ndarray:
        """Images `(n, *input_shape)` in the user's units as float32 images in [0, 1]."""
        scaled = x if self._same_units else (x.astype(np.float64) - self.low) / self.width
        return scaled.clip(0.0, 1.0).astype(np.float32).reshape(len(x), *self.shape)

    def restore(self, x: np.ndarray, perturbed: np.ndarray, eps: float, norm: str) -> np.ndarray:
        """
        Perturbed images in [0, 1] as the user gets them: of the shape, type and units of `x`, within eps (in the same
        units) of it. For float32 images already in [0, 1] they are those of the attack, bit for bit.
        """
        images = perturbed.reshape(len(x), *self.user_shape)
        if self._same_units and x.dtype == perturbed.dtype:
            return images
        images = self.low + self.width * images.astype(np.float64)
        return within_budget(x, images, eps, norm, self.low, self.low + self.width)

    @property
    def _same_units(self) -> bool:
        return self.low == 0.0 and self.width == 1.0


def _range(classifier: PyTorchClassifier) -> tuple[float, float]:
    """Smallest value and width of the range, which all channels must share."""
    clip = classifier.clip_values
    if clip is None:
        raise ValueError("`classifier` has no `clip_values`; expected the range of the images, for example (0.0, 1.0).")
    low, high = (np.unique(np.asarray(value, dtype=np.float64)) for value in clip)
    if len(low) > 1 or len(high) > 1:
        raise ValueError(f"`classifier` has `clip_values` {shown(clip)}; expected one range for all channels.")
    return float(low[0]), float(high[0] - low[0])


def within_budget(x: np.ndarray, perturbed: np.ndarray, eps: float, norm: str, low: float, high: float) -> np.ndarray:
    """
    Perturbed images, float64, in the float type of `x`, whose difference from `x`, as it is stored, is at most eps:
    rounding goes towards `x`.
    """
    norm, start = norm_name(norm), x.astype(np.float64)
    delta = np.clip(perturbed, low, high) - start
    if norm == "linf":
        delta = np.clip(delta, -eps, eps)
    else:
        flat = delta.reshape(len(x), math.prod(x.shape[1:]))
        size = np.linalg.norm(flat, ord=2 if norm == "l2" else 1, axis=1)
        # Slightly inside, in case a norm is summed in another order.
        shrink = np.where(size > eps * (1 - 1e-12), eps * (1 - 1e-12) / np.maximum(size, 1e-300), 1.0)
        delta = delta * shrink.reshape(-1, *[1] * (x.ndim - 1))
    stored = (start + delta).astype(x.dtype)
    beyond = np.abs(stored.astype(np.float64) - start) > np.abs(delta)
    nearest: np.ndarray = np.where(beyond, np.nextafter(stored, x), stored)
    return nearest


def attackable_shape(input_shape: tuple[int, ...], windows: bool) -> tuple[int, ...] | None:
    """
    The shape in which pyautoattack can attack images: their own if it will do, else that of the most square image with
    as many values (which are as robust in one layout as in another); None if there is none.

    With `windows` Square runs in L2 or L1: it tiles the image, and fails where its tiles do not fit (heights below 5;
    12, 14, 18, 19, 24).
    """
    usable = _tiles_fit if windows else lambda height, width: True
    if len(input_shape) == 3 and usable(*input_shape[1:]):
        return tuple(input_shape)
    channels = input_shape[0] if len(input_shape) == 3 else 1
    values = math.prod(input_shape) // max(channels, 1)
    heights = [height for height in range(1, values + 1) if values % height == 0 and usable(height, values // height)]
    if not heights:
        return None
    height = min(heights, key=lambda height: (abs(height - values // height), height))
    return channels, height, values // height


def _tiles_fit(height: int, width: int) -> bool:
    side = height // 5
    if side <= 1 or width < side:
        return side >= 1
    margin = (height - 5 * side) // 2
    return all(margin + length // side * side <= length for length in (height, width))
