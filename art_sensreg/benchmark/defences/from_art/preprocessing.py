"""Preprocessing defences as rows: the model of `none` behind one of ART's preprocessors at prediction time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
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
from art_sensreg.benchmark.defences.train_spec import NotApplicable, TrainingSpec

Options = dict[str, Any]
Tensors = Callable[[torch.Tensor], torch.Tensor]
_BOX = (0.0, 1.0)
_AT_PREDICTION = {"apply_fit": False, "apply_predict": True}


@dataclass(frozen=True)
class PreprocessingRow:
    """
    What a row of the suite needs to know of a preprocessor.

    :param make: Function of a spec and the options that makes it.
    :param surrogate: Function of the options that makes the differentiable stand-in for BPDA; None: the identity.
    :param samples: Draws that EOT averages, by budget; None: the preprocessor is not random.
    :param points: Most images that are attacked, by budget, of a slow preprocessor; None: all.
    """

    make: Callable[[TrainingSpec, Options], Preprocessor]
    surrogate: Callable[[Options], Tensors] | None = None
    samples: dict[str, int] | None = None
    points: dict[str, int] | None = None


_EVASION = robust_accuracy("evasion within eps", unmet="ART's gradient attacks break it, or those through a stand-in")


@dataclass(frozen=True)
class NamedRow:
    """A row with the words that `--list` shows and the options of `--set`."""

    name: str
    summary: str
    paper: str
    row: PreprocessingRow
    options: Options = field(default_factory=dict)
    claim: Claim = _EVASION


class FeatureSqueezingFloat32(FeatureSqueezing):
    """
    ART's feature squeezing with images of the type that came: under numpy 2 its own returns float64, on which ART's
    AutoPGD crashes.
    """

    def __call__(self, x: np.ndarray, y: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        squeezed, labels = super().__call__(x, y)
        return squeezed.astype(x.dtype), labels


class TotalVarMinChannelsFirst(TotalVarMin):
    """ART's total variation minimisation for images `(n, channels, height, width)`: its own takes channels last."""

    def __call__(self, x: np.ndarray, y: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        smooth, labels = super().__call__(np.ascontiguousarray(x.transpose(0, 2, 3, 1)), y)
        return np.ascontiguousarray(smooth.transpose(0, 3, 1, 2)), labels


class Quantise(PreprocessorPyTorch):
    """
    Images rounded to a number of levels, in torch: its gradient is zero, and that is all there is to the defence.

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
        """
        Round.

        :param x: Images in [0, 1].
        :param y: Labels, returned as they are.
        :return: Rounded images, and the labels.
        """
        return torch.round(x * (self.levels - 1)) / (self.levels - 1), y


def median_filter(window: int) -> Tensors:
    """
    A median filter that autograd goes through: BPDA's stand-in for ART's spatial smoothing.

    :param window: Side of the window.
    :return: Function of images `(n, c, h, w)`.

    Example:
    >>> from art_sensreg.benchmark.defences.from_art.preprocessing import median_filter
    >>> median_filter(3)(torch.tensor([[[[0.0, 9.0, 1.0]]]]))
    tensor([[[[0., 1., 1.]]]])
    """

    def smooth(x: torch.Tensor) -> torch.Tensor:
        before, after = window // 2, (window - 1) // 2
        padded = functional.pad(x, (before, after, before, after), mode="replicate")
        return padded.unfold(2, window, 1).unfold(3, window, 1).flatten(4).median(dim=4).values

    return smooth


class ClippingJpeg(JpegCompression):
    """
    ART's JPEG compression for images that noise has taken out of range, on which ART's own fails.

    Example:
    >>> x = np.full((1, 1, 8, 8), -0.5, dtype=np.float32)
    >>> ClippingJpeg((0.0, 1.0), channels_first=True)(x)[0].min().item()
    0.0
    """

    def __call__(self, x: np.ndarray, y: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """
        Compress images.

        :param x: Images `(n, channels, height, width)`.
        :param y: Labels, or None.
        :return: The images, and the labels as they came.
        """
        images, labels = super().__call__(np.clip(x, *self.clip_values), y)
        return images, labels


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
    return Quantise(options["levels"], device_type="gpu" if spec.device == "cuda" else "cpu")


_LARGEST_SIDE = 64

PREPROCESSING_ROWS = (
    NamedRow(
        "art-jpeg",
        "ART JpegCompression at prediction",
        "Dziugaite et al. 2016, arXiv 1608.00853",
        PreprocessingRow(_jpeg, points={"smoke": 50, "quick": 50, "full": 500}),
        {"quality": 50},
    ),
    NamedRow(
        "art-spatial-smoothing",
        "ART SpatialSmoothing (median filter) at prediction",
        "Xu et al. 2018, arXiv 1704.01155",
        PreprocessingRow(_smoothing, lambda options: median_filter(options["window_size"])),
        {"window_size": 3},
    ),
    NamedRow(
        "art-feature-squeezing",
        "ART FeatureSqueezing (bit depth) at prediction",
        "Xu et al. 2018, arXiv 1704.01155",
        PreprocessingRow(_squeezing),
        {"bit_depth": 3},
    ),
    NamedRow(
        "art-gaussian-augmentation",
        "ART GaussianAugmentation at prediction: random, so scored with fresh draws",
        "Zantedeschi et al. 2017, arXiv 1707.06728",
        PreprocessingRow(
            _gaussian,
            samples={"smoke": 4, "quick": 8, "full": 16},
            points={"smoke": 50, "quick": 200, "full": 1000},
        ),
        {"sigma": 0.1},
    ),
    NamedRow(
        "art-total-var-min",
        "ART TotalVarMin at prediction: random, slow, on few images",
        "Guo et al. 2018, arXiv 1711.00117",
        PreprocessingRow(
            _variation,
            samples={"smoke": 2, "quick": 2, "full": 8},
            points={"smoke": 4, "quick": 4, "full": 50},
        ),
        # ART's own 0.5 smooths the digits away: the undefended model is then right on a quarter of them.
        {"prob": 0.3, "lamb": 0.05, "max_iter": 10},
    ),
    NamedRow(
        "quantise",
        "No defence: rounding in torch, whose gradient is zero; what BPDA is for",
        "Athalye et al. 2018, arXiv 1802.00420 (the attack)",
        PreprocessingRow(_quantise),
        {"levels": 8},
        Claim(metric="none", threat="nobody"),
    ),
)
