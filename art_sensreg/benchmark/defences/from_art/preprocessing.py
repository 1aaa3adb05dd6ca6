"""Preprocessing defences: one of ART's preprocessors before the undefended model at prediction time."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from art.defences.preprocessor import (
    FeatureSqueezing,
    GaussianAugmentation,
    JpegCompression,
    SpatialSmoothing,
    TotalVarMin,
)
from art.defences.preprocessor.preprocessor import Preprocessor, PreprocessorPyTorch
from torch.nn import functional

from art_sensreg.benchmark.defences.claims import Claim, robust_accuracy
from art_sensreg.benchmark.defences.spec import Defence, Options, Preprocessing, within
from art_sensreg.benchmark.defences.train_spec import NotApplicable, TrainingSpec

_BOX = (0.0, 1.0)
_AT_PREDICTION = {"apply_fit": False, "apply_predict": True}
# Sides of images above which total variation minimisation takes too long.
_LARGEST_SIDE = 64


class FeatureSqueezingFloat32(FeatureSqueezing):
    """
    ART's feature squeezing, which keeps the type of the images: under numpy 2 its own returns float64, on which ART's
    AutoPGD crashes.
    """

    def __call__(self, x: np.ndarray, y: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        squeezed, labels = super().__call__(x, y)
        return squeezed.astype(x.dtype), labels


class TotalVarMinChannelsFirst(TotalVarMin):
    """ART's total variation minimisation of images `(n, channels, height, width)`: its own takes channels last."""

    def __call__(self, x: np.ndarray, y: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        smooth, labels = super().__call__(np.ascontiguousarray(x.transpose(0, 2, 3, 1)), y)
        return np.ascontiguousarray(smooth.transpose(0, 3, 1, 2)), labels


class ClippingJpeg(JpegCompression):
    """ART's JPEG compression of images that noise has taken out of range, on which ART's own fails."""

    def __call__(self, x: np.ndarray, y: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        images, labels = super().__call__(np.clip(x, *self.clip_values), y)
        return images, labels


class Quantise(PreprocessorPyTorch):
    """
    Images rounded to a number of levels, in torch: the gradient is zero, which is the whole defence.

    :param levels: Number of levels, at least 2.
    :param device_type: `cpu` or `gpu`.

    Example:
    >>> from art_sensreg.benchmark.defences.from_art.preprocessing import Quantise
    >>> Quantise(levels=3).forward(torch.tensor([[0.2, 0.3]]))[0]
    tensor([[0.0000, 0.5000]])
    """

    def __init__(self, levels: int = 8, device_type: str = "cpu") -> None:
        super().__init__(device_type=device_type, is_fitted=True, apply_fit=False, apply_predict=True)
        self.levels = levels

    def forward(self, x: torch.Tensor, y: Any = None) -> tuple[torch.Tensor, Any]:
        """Round images in [0, 1]; the labels stay as they are."""
        return torch.round(x * (self.levels - 1)) / (self.levels - 1), y


def median_filter(window: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """A differentiable median filter of images `(n, c, h, w)`: BPDA's substitute for ART's spatial smoothing."""

    def smooth(x: torch.Tensor) -> torch.Tensor:
        before, after = window // 2, (window - 1) // 2
        padded = functional.pad(x, (before, after, before, after), mode="replicate")
        return padded.unfold(2, window, 1).unfold(3, window, 1).flatten(4).median(dim=4).values

    return smooth


def _jpeg(spec: TrainingSpec, options: Options) -> Preprocessor:
    if find_spec("PIL") is None:
        raise NotApplicable("ART's JpegCompression needs Pillow: install art_sensreg[bench]")
    return ClippingJpeg(_BOX, quality=options["quality"], channels_first=True, **_AT_PREDICTION)


def _smoothing(spec: TrainingSpec, options: Options) -> Preprocessor:
    return SpatialSmoothing(options["window_size"], channels_first=True, clip_values=_BOX, **_AT_PREDICTION)


def _squeezing(spec: TrainingSpec, options: Options) -> Preprocessor:
    return FeatureSqueezingFloat32(_BOX, bit_depth=options["bit_depth"], **_AT_PREDICTION)


def _gaussian(spec: TrainingSpec, options: Options) -> Preprocessor:
    return GaussianAugmentation(options["sigma"], augmentation=False, clip_values=_BOX, **_AT_PREDICTION)


def _variation(spec: TrainingSpec, options: Options) -> Preprocessor:
    side = min(spec.dataset.input_shape[1:])
    if side > _LARGEST_SIDE:
        raise NotApplicable(
            f"ART's TotalVarMin solves one problem for each channel of each image in every call: images of side {side} "
            f"take too long (at most {_LARGEST_SIDE})"
        )
    return TotalVarMinChannelsFirst(
        prob=options["prob"],
        lamb=options["lamb"],
        max_iter=options["max_iter"],
        clip_values=_BOX,
        verbose=False,
        **_AT_PREDICTION,
    )


def _quantise(spec: TrainingSpec, options: Options) -> Preprocessor:
    if options["levels"] < 2:
        raise NotApplicable(f"`levels` is {options['levels']}: one level leaves nothing of an image")
    return Quantise(options["levels"], device_type=spec.art_device)


_EVASION = robust_accuracy("evasion within eps", unmet="ART's gradient attacks break it, or do so through a substitute")

PREPROCESSING = (
    Defence(
        "art-jpeg",
        "ART JpegCompression at prediction time",
        "Dziugaite et al. 2016, arXiv 1608.00853",
        {"quality": 50},
        _EVASION,
        ours=False,
        preprocessing=Preprocessing(make=_jpeg, points={"smoke": 50, "quick": 50, "full": 500}),
    ),
    Defence(
        "art-spatial-smoothing",
        "ART SpatialSmoothing (median filter) at prediction time",
        "Xu et al. 2018, arXiv 1704.01155",
        {"window_size": 3},
        _EVASION,
        ours=False,
        preprocessing=Preprocessing(make=_smoothing, surrogate=lambda options: median_filter(options["window_size"])),
    ),
    Defence(
        "art-feature-squeezing",
        "ART FeatureSqueezing (bit depth) at prediction time",
        "Xu et al. 2018, arXiv 1704.01155",
        {"bit_depth": 3},
        _EVASION,
        ours=False,
        preprocessing=Preprocessing(make=_squeezing),
    ),
    Defence(
        "art-gaussian-augmentation",
        "ART GaussianAugmentation at prediction time: random, so scored with fresh draws",
        "Zantedeschi et al. 2017, arXiv 1707.06728",
        {"sigma": 0.1},
        _EVASION,
        ours=False,
        preprocessing=Preprocessing(
            make=_gaussian,
            samples={"smoke": 4, "quick": 8, "full": 16},
            points={"smoke": 50, "quick": 200, "full": 1000},
        ),
        check=within(above_zero=("sigma",)),
    ),
    Defence(
        "art-total-var-min",
        "ART TotalVarMin at prediction time: random, slow, on few images",
        "Guo et al. 2018, arXiv 1711.00117",
        # ART's own 0.5 smooths the digits away: the undefended model then classifies a quarter of them correctly.
        {"prob": 0.3, "lamb": 0.05, "max_iter": 10},
        _EVASION,
        ours=False,
        preprocessing=Preprocessing(
            make=_variation,
            samples={"smoke": 2, "quick": 2, "full": 8},
            points={"smoke": 4, "quick": 4, "full": 50},
        ),
        check=within(at_most_one=("prob",)),
    ),
    Defence(
        "quantise",
        "Not a real defence: rounding in torch, whose gradient is zero; what BPDA is for",
        "Athalye et al. 2018, arXiv 1802.00420 (the attack)",
        {"levels": 8},
        Claim(metric="none", threat="nobody"),
        preprocessing=Preprocessing(make=_quantise),
    ),
)
