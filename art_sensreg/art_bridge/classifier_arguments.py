"""Checks of a classifier's constructor arguments: ART stores whatever it is given, and fails much later or never."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from art.defences.postprocessor.postprocessor import Postprocessor
from art.defences.preprocessor.preprocessor import Preprocessor
from torch import nn

from art_sensreg.utils import as_array, check_choice, check_count, check_flag, shown

_PLAIN = {np.dtype(np.float32), np.dtype(np.float64)}


def check_arguments(given: Mapping[str, Any], input_shape: Any = None) -> None:
    """
    Check arguments of ART's `PyTorchClassifier` by name, before they are used; others are ignored.

    `input_shape` is the shape of one image, if it is not among them.
    """
    if "model" in given and not isinstance(given["model"], nn.Module):
        raise TypeError(f"`model` is {shown(given['model'])}; expected an nn.Module that returns logits.")
    loss = given.get("loss")
    if loss is not None and (isinstance(loss, type) or not callable(loss)):  # none is needed to predict
        raise TypeError(
            f"`loss` is {shown(loss)}; expected a function of logits and labels, nn.CrossEntropyLoss() say."
        )
    if "input_shape" in given:
        input_shape = given["input_shape"]
        _check_shape(input_shape)
    if "nb_classes" in given:
        check_count("nb_classes", given["nb_classes"])
    optimizer = given.get("optimizer")
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"`optimizer` is {shown(optimizer)}; expected a torch optimizer of the model's parameters.")
    for name in ("channels_first", "use_amp"):
        if name in given:
            check_flag(name, given[name])
    if "device_type" in given:
        check_choice("device_type", given["device_type"], ("cpu", "gpu"))
    if given.get("clip_values") is not None:
        check_clip_values(given["clip_values"], input_shape)
    if given.get("preprocessing") is not None:
        _check_preprocessing(given["preprocessing"])
    _check_defences("preprocessing_defences", given.get("preprocessing_defences"), Preprocessor)
    _check_defences("postprocessing_defences", given.get("postprocessing_defences"), Postprocessor)


def check_inputs(x: Any, name: str = "x", shape: Sequence[int] | None = None) -> Any:
    """
    Images for a classifier in a form that torch accepts: native byte order and positive strides.

    Tensors, and arrays of objects (images of several sizes, for which ART has preprocessors), are returned unchanged.
    Each example must have the given `shape`, unless that is None.
    """
    if type(x) is np.ndarray and x.dtype in _PLAIN and x.flags.c_contiguous and x.ndim:
        return _of_shape(x, name, shape)
    if isinstance(x, torch.Tensor):
        if x.is_complex() or x.is_quantized or (x.is_floating_point() and x.itemsize == 1):
            raise TypeError(f"`{name}` has dtype {x.dtype}; expected real numbers, float16 at least.")
        if x.layout is not torch.strided or x.is_nested or x.is_meta:
            raise ValueError(f"`{name}` is sparse, nested or on the meta device; expected a dense tensor.")
        return _of_shape(x, name, shape)
    array = as_array(x, name)
    kind = array.dtype.kind
    if kind == "O" and isinstance(x, np.ndarray):
        return x  # ART's way to give images of several sizes
    if kind not in "fiub" or array.ndim == 0:
        raise TypeError(f"`{name}` is {shown(x)} of dtype {array.dtype}; expected an array of real numbers.")
    if kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    array = _of_shape(array, name, shape)
    return np.ascontiguousarray(array) if min(array.strides, default=0) < 0 else array


def _of_shape(x: Any, name: str, shape: Sequence[int] | None) -> Any:
    if shape is not None and tuple(x.shape[1:]) != tuple(shape):
        expected = f"(n, {', '.join(map(str, shape))})"
        raise ValueError(f"`{name}` has shape {tuple(x.shape)}; expected {expected}, n of the `input_shape`.")
    return x


def _check_shape(shape: Any) -> None:
    expected = "a tuple of whole numbers of at least 1, the shape of one image"
    if not isinstance(shape, (tuple, list, torch.Size)):
        raise TypeError(f"`input_shape` is {shown(shape)}; expected {expected}.")
    if not shape:
        raise ValueError(f"`input_shape` is {shown(shape)}; expected {expected}.")
    for size in shape:
        check_count("input_shape", size)


def check_clip_values(clip_values: Any, input_shape: Any = None) -> None:
    """Check an input range: a pair of numbers or arrays, finite, with min below max."""
    message = f"`clip_values` is {shown(clip_values)}; expected a pair (min, max) of finite numbers or arrays with min "
    message += "below max."
    if not isinstance(clip_values, (tuple, list, np.ndarray)) or len(clip_values) != 2:
        raise ValueError(message)
    low, high = (_numbers(bound, message) for bound in clip_values)
    if np.isnan(low).any() or np.isnan(high).any() or np.isinf(low).any() or np.isinf(high).any():
        raise ValueError(message)
    if low.shape != high.shape or (low >= high).any():
        raise ValueError(message)
    if input_shape is not None and low.shape != (math.prod(input_shape),):
        check_broadcast("clip_values", low, input_shape)


def check_broadcast(name: str, array: np.ndarray, input_shape: Any) -> None:
    """Refuse an array that does not broadcast to an image."""
    try:
        fits = np.broadcast_shapes(array.shape, tuple(input_shape)) == tuple(input_shape)
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"`{name}` holds arrays of shape {array.shape}; expected numbers, or arrays that broadcast against an "
            f"image of shape {tuple(input_shape)}."
        )


def _check_preprocessing(preprocessing: Any) -> None:
    if isinstance(preprocessing, Preprocessor):
        return
    message = f"`preprocessing` is {shown(preprocessing)}; expected a tuple (mean, std) of finite numbers or arrays "
    message += "with no std of 0, one of ART's preprocessors, or None."
    if not isinstance(preprocessing, tuple) or len(preprocessing) != 2:
        raise TypeError(message)
    mean, std = (_numbers(value, message) for value in preprocessing)
    if not np.isfinite(mean).all() or not np.isfinite(std).all() or (std == 0).any():
        raise ValueError(message)


def _numbers(value: Any, message: str) -> np.ndarray:
    try:
        array = np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)
    except ValueError as error:  # rows of unequal length
        raise ValueError(message) from error
    if array.dtype.kind not in "iuf" or array.size == 0:
        raise TypeError(message)
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(message)
    return array.astype(np.float64)


def _check_defences(name: str, defences: Any, kind: type) -> None:
    several = defences if isinstance(defences, (list, tuple)) else [] if defences is None else [defences]
    for defence in several:
        if not isinstance(defence, kind):
            raise TypeError(f"`{name}` holds {shown(defence)}; expected a list of ART's {kind.__name__}s.")
