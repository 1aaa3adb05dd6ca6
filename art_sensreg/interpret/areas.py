"""Insertion and deletion area: whether the pixels that a map names are those that the model decides by."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier

from art_sensreg.interpret.metrics import check_map
from art_sensreg.interpret.saliency import batches, checked, evaluated, full_baseline
from art_sensreg.utils import as_numbers, check_count, check_number


def insertion_area(
    classifier: PyTorchClassifier,
    x: np.ndarray,
    y: Any,
    saliency: np.ndarray,
    baseline: float | np.ndarray = 0.0,
    steps: int = 32,
    batch_size: int = 128,
    seed: int = 0,
) -> np.ndarray:
    """
    Area under the probability of the class while pixels are put into the baseline, the most salient first.

    Where the area is large, a few of the pixels that the map names suffice. A pixel has all its channels, and its
    saliency is the sum of their absolute values; of equal pixels the first comes first. The area also grows with how
    sure the model is at all, so that between models it is to be read beside :func:`deletion_area`.

    | Paper link: https://arxiv.org/abs/1806.07421 (RISE: Petsiuk, Das, Saenko 2018)

    :param classifier: ART classifier.
    :param x: Images `(n, *input_shape)`, floating point, finite.
    :param y: Classes: indices `(n,)`, or rows `(n, nb_classes)`.
    :param saliency: Maps of the shape of `x`, finite.
    :param baseline: What stands for a missing pixel, in input units: a number, or an array that broadcasts against `x`,
        :func:`blurred` images say.
    :param steps: Number of equal steps from no pixel to all of them; at most one for each pixel is taken.
    :param batch_size: Rows of a pass.
    :param seed: Seed of the draws of a random model.
    :return: Areas by the trapezoid rule, both ends included, from 0 to 1: `(n,)`, float64. More is better.
    :raises TypeError: If an argument is of a wrong type.
    :raises ValueError: If arrays do not fit the classifier, or an argument is out of range.

    Example:
    >>> from art_sensreg.interpret import insertion_area
    >>> model = torch.nn.Linear(4, 2)
    >>> for parameter in model.parameters():
    ...     _ = parameter.data.zero_()
    >>> classifier = PyTorchClassifier(model, torch.nn.CrossEntropyLoss(), (4,), 2)
    >>> insertion_area(classifier, np.ones((1, 4)), [0], np.ones((1, 4)))
    array([0.5])
    """
    return _area(classifier, x, y, saliency, baseline, steps, batch_size, seed, insert=True)


def deletion_area(
    classifier: PyTorchClassifier,
    x: np.ndarray,
    y: Any,
    saliency: np.ndarray,
    baseline: float | np.ndarray = 0.0,
    steps: int = 32,
    batch_size: int = 128,
    seed: int = 0,
) -> np.ndarray:
    """
    Area under the probability of the class while pixels are replaced by the baseline, the most salient first.

    | Paper link: https://arxiv.org/abs/1806.07421 (RISE: Petsiuk, Das, Saenko 2018)

    :param classifier: ART classifier.
    :param x: Images `(n, *input_shape)`, floating point, finite.
    :param y: Classes: indices `(n,)`, or rows `(n, nb_classes)`.
    :param saliency: Maps of the shape of `x`, finite.
    :param baseline: As for :func:`insertion_area`.
    :param steps: As for :func:`insertion_area`.
    :param batch_size: Rows of a pass.
    :param seed: Seed of the draws of a random model.
    :return: Areas by the trapezoid rule, both ends included, from 0 to 1: `(n,)`, float64. Less is better.
    :raises TypeError: If an argument is of a wrong type.
    :raises ValueError: If arrays do not fit the classifier, or an argument is out of range.

    Example:
    >>> from art_sensreg.interpret import deletion_area
    >>> classifier = PyTorchClassifier(torch.nn.Identity(), torch.nn.CrossEntropyLoss(), (2,), 2)
    >>> x = np.array([[4.0, 0.0]])
    >>> bool(deletion_area(classifier, x, [0], x)[0] < deletion_area(classifier, x, [0], 4 - x)[0])
    True
    """
    return _area(classifier, x, y, saliency, baseline, steps, batch_size, seed, insert=False)


def blurred(x: np.ndarray, width: float) -> np.ndarray:
    """
    Images under a Gaussian blur, whose weights add up to 1 at the borders too: a baseline of no sharp edge.

    :param x: Images `(n, ..., height, width)`.
    :param width: Standard deviation of the blur, in pixels, above 0.
    :return: Array of the shape of `x`.
    :raises TypeError: If `width` is no number.
    :raises ValueError: If `width` is out of range, or `x` has no height and width.

    Example:
    >>> from art_sensreg.interpret import blurred
    >>> blurred(np.array([[[1.0, 0.0], [0.0, 0.0]]]), width=100.0).round(2)
    array([[[0.25, 0.25],
            [0.25, 0.25]]])
    """
    check_number("width", width, minimum=0.0, exclusive=True)
    images = as_numbers(x, "x")
    if images.ndim < 3:
        raise ValueError(f"`x` has shape {images.shape}; expected (n, ..., height, width).")
    rows, columns = (_blur_matrix(size, float(width)) for size in images.shape[-2:])
    smooth: np.ndarray = (rows @ images @ columns.T).astype(images.dtype)
    return smooth


def _area(
    classifier: PyTorchClassifier,
    x: np.ndarray,
    y: Any,
    saliency: np.ndarray,
    baseline: float | np.ndarray,
    steps: int,
    batch_size: int,
    seed: int,
    insert: bool,
) -> np.ndarray:
    check_count("steps", steps)
    images, labels = checked(classifier, x, y)
    ranks = _ranks(check_map(saliency, images))
    pixels = int(ranks[0].size)
    counts = np.linspace(0, pixels, min(int(steps), pixels) + 1).round().astype(np.int64)
    curves = []
    with evaluated(classifier, seed) as logits, torch.no_grad():
        arrays = (images, full_baseline(baseline, images), ranks, labels)
        for rows, missing, order, targets in batches(classifier, batch_size, *arrays):
            first, last = (missing, rows) if insert else (rows, missing)
            mixed = (torch.where(order < count, last, first) for count in counts.tolist())
            curve = [logits(batch).softmax(1).gather(1, targets[:, None])[:, 0] for batch in mixed]
            curves.append(torch.stack(curve, dim=1).double().cpu().numpy())
    heights = np.concatenate(curves)
    areas: np.ndarray = (heights[:, 1:] + heights[:, :-1]) / 2 @ (np.diff(counts) / pixels)
    return areas


def _ranks(maps: np.ndarray) -> np.ndarray:
    """Place of each pixel from the most salient, 0, on; its shape broadcasts against the images."""
    strengths = np.abs(maps).sum(axis=1, keepdims=True) if maps.ndim > 3 else np.abs(maps)
    flat = strengths.reshape(len(maps), -1)
    order = np.argsort(-flat, axis=1, kind="stable")
    return np.argsort(order, axis=1).reshape(strengths.shape)


def _blur_matrix(size: int, width: float) -> np.ndarray:
    places = np.arange(size)
    weights = np.exp(-0.5 * ((places[:, None] - places) / width) ** 2)
    matrix: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
    return matrix
