"""Images quantised, compressed or bent before an honest model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from art.defences.preprocessor.preprocessor import Preprocessor
from torch import nn

from art_sensreg import SensRegClassifier
from art_sensreg.datasets import Dataset
from tests.auditing.models.planted_base import Transform, front, planted, preprocessor

QUANTISED = "Images are rounded to a few levels, so that the gradient is zero almost everywhere."
JPEG = "Images are JPEG compressed, whose rounding has no gradient."
SHATTERED = "A rapid oscillation before the model hides the gradient's direction."
STAIRCASE = "Smooth steps before the model make the gradient vanish on the treads."


def rounded(levels: int) -> Transform:
    return lambda x: torch.round(x * (levels - 1)) / (levels - 1)


def int_cast(x: torch.Tensor) -> torch.Tensor:
    return (x * 31.999).int().to(x.dtype) / 31


def bucketised(x: torch.Tensor) -> torch.Tensor:
    edges = torch.linspace(0, 1, 9)[1:-1]
    codebook = torch.linspace(0.03, 0.97, 8)
    return codebook.to(x.dtype)[torch.bucketize(x, edges.to(x.dtype))]


def thresholded(x: torch.Tensor) -> torch.Tensor:
    return (x > 0.4).to(x.dtype)


def counted_steps(x: torch.Tensor) -> torch.Tensor:
    """Five levels as a sum of signs, whose derivative torch defines as zero."""
    return sum(torch.sign(x - edge) for edge in (0.125, 0.375, 0.625, 0.875)) / 8 + 0.5


class Dithered(nn.Module):
    """Rounding after a fixed ordered dither, which looks like a layer with a learnt offset."""

    def __init__(self, base: nn.Module, digits: Dataset) -> None:
        super().__init__()
        self.base = base
        self.offset = nn.Parameter(torch.linspace(-0.4, 0.4, 64).reshape(digits.input_shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.base(torch.floor(x * 5 + self.offset + 0.5) / 5)
        return logits


class ZeroGradientPreprocessor(Preprocessor):
    """A numpy preprocessor that rounds, and whose own gradient estimate is zero instead of ART's identity."""

    def __init__(self) -> None:
        super().__init__(is_fitted=True, apply_fit=False, apply_predict=True)

    def __call__(self, x: np.ndarray, y: Any = None) -> tuple[np.ndarray, Any]:
        return np.round(x * 7) / np.float32(7), y

    def estimate_gradient(self, x: np.ndarray, grad: np.ndarray) -> np.ndarray:
        return np.zeros_like(grad)


LUMINANCE = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""


def dct_matrix() -> torch.Tensor:
    rows = torch.arange(8.0)
    matrix = torch.cos(math.pi / 8 * (rows[None] + 0.5) * rows[:, None]) / 2
    matrix[0] /= math.sqrt(2)
    return matrix


def cubic_round(x: torch.Tensor) -> torch.Tensor:
    """Rounding as in Shin and Song 2017: its gradient is zero at whole numbers, and it jumps between them."""
    whole = torch.round(x).detach()
    return whole + (x - whole) ** 3


def steep_round(x: torch.Tensor) -> torch.Tensor:
    """Continuous rounding whose gradient all but vanishes except near the halves."""
    whole = torch.round(x).detach()
    return whole + (2 * (x - whole)) ** 25 / 2


def jpeg(rounding: Transform, scale: float) -> Transform:
    table = torch.tensor([float(entry) for entry in LUMINANCE.split()]).reshape(8, 8) * scale
    transform = dct_matrix()

    def compressed(x: torch.Tensor) -> torch.Tensor:
        block, steps = transform.to(x.dtype), table.to(x.dtype)
        coefficients = block @ (x * 255 - 128) @ block.T
        decoded = block.T @ (rounding(coefficients / steps) * steps) @ block
        return ((decoded + 128) / 255).clamp(0, 1)

    return compressed


def sine(amplitude: float, frequency: float) -> Transform:
    return lambda x: x + amplitude * torch.sin(frequency * x)


def smooth_stairs(steps: int, times: int) -> Transform:
    """Each pass has the derivative `1 - cos(2 pi n x)`: zero at every k / n, where the digits' grey values may lie."""

    def stairs(x: torch.Tensor) -> torch.Tensor:
        for _ in range(times):
            x = x - torch.sin(2 * math.pi * steps * x) / (2 * math.pi * steps)
        return x

    return stairs


def sigmoid_stairs(levels: int, steepness: float) -> Transform:
    edges = [(level + 0.5) / levels for level in range(levels)]
    return lambda x: torch.stack([torch.sigmoid(steepness * (x - edge)) for edge in edges]).mean(0)


def tanh_snap(x: torch.Tensor) -> torch.Tensor:
    """Every grey value drawn to the nearest of six."""
    scaled = x * 5
    low = torch.floor(scaled).detach()
    return (low + 0.5 + 0.5 * torch.tanh(40 * (scaled - low - 0.5))) / 5


class HiddenSine(nn.Module):
    """The oscillation behind the first layer instead of before it."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.first, self.rest, self.head = base.features[0], base.features[1:], base.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x)
        logits: torch.Tensor = self.head(self.rest(hidden + 0.08 * torch.sin(300 * hidden)))
        return logits


class PhaseSine(nn.Module):
    """An oscillation of its own frequency and phase in every pixel."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.register_buffer("frequency", torch.linspace(400, 900, 64).reshape(1, 1, 8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wave = torch.sin(self.frequency * x + self.frequency)
        logits: torch.Tensor = self.base((x + 0.06 * wave).clamp(0, 1))
        return logits


FAULTS = [
    front("quantisation", QUANTISED, rounded(4)),
    front("quantisation_to_the_grid_of_the_data", QUANTISED, rounded(17)),
    front("quantisation_of_sensreg_classifier", QUANTISED, rounded(6), kind=SensRegClassifier),
    planted("quantisation_in_preprocessor", QUANTISED, lambda d, b: b, preprocessing_defences=preprocessor(rounded(4))),
    planted(
        "quantisation_in_preprocessor_of_sensreg_classifier",
        QUANTISED,
        lambda d, b: b,
        kind=SensRegClassifier,
        preprocessing_defences=preprocessor(rounded(9)),
    ),
    planted(
        "quantisation_in_numpy_preprocessor",
        "A numpy preprocessor rounds, and says that its gradient is zero.",
        lambda d, b: b,
        preprocessing_defences=ZeroGradientPreprocessor,
    ),
    front("quantisation_by_int_cast", QUANTISED, int_cast),
    front("quantisation_by_int_cast_of_sensreg_classifier", QUANTISED, int_cast, kind=SensRegClassifier),
    front("quantisation_by_bucketize", QUANTISED, bucketised),
    front("quantisation_by_threshold", QUANTISED, thresholded, epochs=8),
    front("quantisation_by_signs", QUANTISED, counted_steps),
    planted("quantisation_with_dither", QUANTISED, lambda d, b: Dithered(b, d)),
    front("jpeg", JPEG, jpeg(torch.round, 1.0)),
    front("jpeg_strong", JPEG, jpeg(torch.round, 3.0)),
    front("jpeg_cubic", JPEG, jpeg(cubic_round, 3.0)),
    front("jpeg_soft", JPEG, jpeg(steep_round, 2.0)),
    front("jpeg_of_sensreg_classifier", JPEG, jpeg(torch.round, 2.0), kind=SensRegClassifier),
    planted("jpeg_in_preprocessor", JPEG, lambda d, b: b, preprocessing_defences=preprocessor(jpeg(torch.round, 1.5))),
    front("shattered_sine", SHATTERED, sine(0.03, 1000.0)),
    front("shattered_sine_slow", SHATTERED, sine(0.05, 200.0), epochs=8),
    front("shattered_sine_fast", SHATTERED, sine(0.02, 3000.0)),
    front("shattered_sine_strong", SHATTERED, sine(0.1, 2000.0), epochs=8),
    planted(
        "shattered_sine_in_preprocessor",
        SHATTERED,
        lambda d, b: b,
        preprocessing_defences=preprocessor(sine(0.04, 700.0)),
    ),
    planted("shattered_sine_per_pixel", SHATTERED, lambda d, b: PhaseSine(b)),
    planted("shattered_sine_hidden", SHATTERED, lambda d, b: HiddenSine(b)),
    front("staircase_smooth", STAIRCASE, smooth_stairs(16, 3)),
    front("staircase_smooth_wide", STAIRCASE, smooth_stairs(6, 4)),
    front("staircase_of_sigmoids", STAIRCASE, sigmoid_stairs(8, 1000.0)),
    front("staircase_of_sigmoids_steep", STAIRCASE, sigmoid_stairs(4, 2000.0)),
    front("staircase_of_tanh", STAIRCASE, tanh_snap),
]
