"""Checks of the data passed to `fit`: one clear error before any weight changes, or data ready for training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from art_sensreg.art_bridge.classifier_arguments import check_broadcast
from art_sensreg.utils import as_array, shown


def check_images(
    x: Any,
    input_shape: tuple[int, ...],
    clip_values: Any = None,
    name: str = "x",
    dtype: Any = np.float32,
    tolerance: float | None = None,
) -> np.ndarray:
    """
    Check images `(n, *input_shape)`: any float type, finite, within `clip_values`; convert them to `dtype`.

    A memory-mapped array stays on disk, and keeps its type. Values outside `clip_values` by at most `tolerance`
    are clipped, except in a memory-mapped array; None: the caller has no such setting.
    """
    images = _as_array(x, name)
    if images.dtype.kind in "iub":
        raise TypeError(
            f"`{name}` has dtype {images.dtype}; expected floating point images scaled to {_range_text(clip_values)}: "
            f"for images from 0 to 255, {_scaling(clip_values, isinstance(x, torch.Tensor))}."
        )
    if images.dtype.kind != "f":
        raise TypeError(f"`{name}` has dtype {images.dtype}; expected floating point images.")
    if images.shape[1:] != tuple(input_shape) or images.ndim != len(input_shape) + 1:
        raise ValueError(f"`{name}` has shape {images.shape}; expected (n, {', '.join(map(str, input_shape))}).")
    if len(images) == 0:
        raise ValueError(f"`{name}` is empty, shape {images.shape}; expected at least one image.")
    if not is_mapped(x) or images.dtype not in (np.float16, np.float32, np.float64):  # torch maps no others
        with np.errstate(over="ignore"):  # what overflows is infinite, and refused below
            images = images.astype(dtype, copy=False)
    # One pass each: min and max are NaN when any value is, and infinite when one is.
    low, high = _extremes(images, clip_values)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        bad = int((~np.isfinite(images).reshape(len(images), -1).all(axis=1)).sum())
        raise ValueError(f"`{name}` has NaN or infinite values in {bad} of {len(images)} images; expected finite ones.")
    return images if clip_values is None else _within_range(x, images, (low, high), clip_values, name, tolerance)


def _within_range(
    x: Any,
    images: np.ndarray,
    extremes: tuple[np.ndarray, np.ndarray],
    clip_values: Any,
    name: str,
    tolerance: float | None,
) -> np.ndarray:
    (low, high), (least, most) = extremes, clip_bounds(clip_values, images.shape[1:])
    slack = 1e-6 * np.maximum(most - least, 1e-30)  # float64 images may round outwards when converted
    allowed = np.maximum(slack, tolerance or 0.0)
    if (low < least - allowed).any() or (high > most + allowed).any():
        beyond = max((least - low).max(), (high - most).max())
        hint = ""
        if tolerance is not None and beyond <= 0.25 * np.max(most - least):
            hint = (
                f" They are outside by up to {beyond:.3g}, as interpolated images can be: TrainingConfig has a "
                "`clip_tolerance` within which they are clipped."
            )
        raise ValueError(
            f"`{name}` has values from {low.min():g} to {high.max():g}; expected {_range_text(clip_values)}, the "
            f"classifier's `clip_values`.{hint}"
        )
    if tolerance and not is_mapped(x) and ((low < least).any() or (high > most).any()):
        images = np.clip(images, least.astype(images.dtype), most.astype(images.dtype))
    return images


def clip_bounds(clip_values: Any, input_shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The input range as two arrays that broadcast to a batch; ART allows flat arrays, one value per feature, too."""
    low, high = (np.asarray(bound) for bound in clip_values)
    flat = (math.prod(input_shape),)
    for bound in (low, high):
        if bound.shape != flat:
            check_broadcast("clip_values", bound, input_shape)
    return (
        low.reshape(input_shape) if low.shape == flat else low,
        high.reshape(input_shape) if high.shape == flat else high,
    )


def check_labels(y: Any, nb_classes: int, nb_samples: int, name: str = "y") -> np.ndarray:
    """
    Check labels: whole class indices `(n,)` or `(n, 1)`, or class probabilities `(n, nb_classes)`.

    Indices stay indices (int64), so that many classes cost no memory; probabilities become float32.
    """
    labels = _as_array(y, name)
    if labels.dtype.kind not in "iubf":
        raise TypeError(f"`{name}` has dtype {labels.dtype}; expected class indices or class probabilities.")
    expected = f"class indices of shape (n,) or probabilities of shape (n, {nb_classes})"
    if labels.ndim not in (1, 2):
        raise ValueError(f"`{name}` has shape {labels.shape}; expected {expected}.")
    if len(labels) != nb_samples:
        raise ValueError(f"`{name}` has {len(labels)} labels; expected {nb_samples}, one for each image.")
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise ValueError(f"`{name}` has NaN or infinite values; expected {expected}.")
    if labels.ndim == 2 and labels.shape[1] == 1 and nb_classes != 1:
        labels = labels[:, 0]
    if labels.ndim == 2:
        return _check_probabilities(labels, nb_classes, name)
    indices = labels.astype(np.int64)
    if (indices != labels).any():
        raise ValueError(
            f"`{name}` has fractional class indices such as {labels[indices != labels][0]:g}; expected {expected}."
        )
    if (indices < 0).any() or (indices >= nb_classes).any():
        raise ValueError(
            f"`{name}` has class indices from {indices.min()} to {indices.max()}; expected 0 to {nb_classes - 1}."
        )
    return indices


def check_indices(indices: Any, nb_samples: int, count: int) -> torch.Tensor:
    """The places of a batch's images in a data set of `count`, as a tensor; ValueError if they cannot be that."""
    try:
        places = torch.as_tensor(indices)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"`indices` of a batch are {type(indices).__name__}; expected whole numbers of shape ({nb_samples},), the "
            "place of each image in the data set."
        ) from None
    whole = not places.is_floating_point() and not places.is_complex() and places.dtype != torch.bool
    if not whole or places.shape != (nb_samples,):
        raise ValueError(
            f"`indices` of a batch are {places.dtype} of shape {tuple(places.shape)}; expected whole numbers of shape "
            f"({nb_samples},)."
        )
    places = places.long()
    if nb_samples and (int(places.min()) < 0 or int(places.max()) >= count):
        raise ValueError(
            f"`indices` of a batch run from {int(places.min())} to {int(places.max())}; expected places in the data "
            f"set of {count} images, from 0 to {count - 1}."
        )
    return places


def class_indices(labels: np.ndarray) -> np.ndarray:
    """The class of each label returned by :func:`check_labels`: for probabilities, the most likely one."""
    indices: np.ndarray = labels if labels.ndim == 1 else labels.argmax(axis=1)
    return indices


def _check_probabilities(labels: np.ndarray, nb_classes: int, name: str) -> np.ndarray:
    if labels.shape[1] != nb_classes:
        raise ValueError(f"`{name}` has {labels.shape[1]} columns; expected {nb_classes}, the number of classes.")
    probabilities = labels.astype(np.float32)
    sums = probabilities.sum(axis=1)
    if (probabilities < 0).any() or np.abs(sums - 1).max(initial=0) > 1e-3:
        worst = sums[np.abs(sums - 1).argmax()]
        raise ValueError(
            f"`{name}` has probabilities that sum to {worst:g} or are negative; expected them to sum to 1."
        )
    return probabilities


def _as_array(value: Any, name: str) -> np.ndarray:
    array = as_array(value, name)
    if array.ndim == 0:
        raise TypeError(f"`{name}` is {shown(value)}; expected an array.")
    return array


def _extremes(images: np.ndarray, clip_values: Any) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest value: per feature where bounds are given per feature, else overall, in one torch pass."""
    each = clip_values is not None and max(np.size(bound) for bound in clip_values) > 1
    if each or not images.flags.c_contiguous or not images.flags.writeable:
        return images.min(axis=0), images.max(axis=0)
    low, high = torch.aminmax(torch.from_numpy(images))
    return low.numpy(), high.numpy()


def is_mapped(value: Any) -> bool:
    """Whether an array is a view of a file, which may be larger than memory."""
    while isinstance(value, np.ndarray):
        if isinstance(value, np.memmap):
            return True
        value = value.base
    return False


def _scaling(clip_values: Any, tensor: bool) -> str:
    low, high = (0.0, 1.0) if clip_values is None else (float(np.min(clip_values[0])), float(np.max(clip_values[1])))
    code = "x.float()" if tensor else "x.astype('float32')"
    if (low, high) == (0.0, 255.0):
        return code
    code += " / 255" + (f" * {high - low:g}" if high - low != 1 else "")
    return code + (f" + {low:g}" if low > 0 else f" - {-low:g}" if low < 0 else "")


def _range_text(clip_values: Any) -> str:
    if clip_values is None:
        return "the range that the model takes"
    return f"[{np.min(clip_values[0]):g}, {np.max(clip_values[1]):g}]"
