"""Insertion and deletion area: whether the most salient pixels are those that the decision depends on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier

from art_sensreg.interpret.config import DEFAULT, ExplanationConfig
from art_sensreg.interpret.metrics import check_map
from art_sensreg.interpret.saliency import Logits, batches, checked, eval_logits, full_baseline
from art_sensreg.utils import as_numbers, check_number


def insertion_area(
    classifier: PyTorchClassifier, x: np.ndarray, y: Any, saliency: np.ndarray, config: ExplanationConfig = DEFAULT
) -> np.ndarray:
    """
    Area under the class probability as pixels are inserted into the baseline, the most salient first.

    If the area is large, a few of the most salient pixels suffice. A pixel comprises all its channels, and its saliency
    is the sum of their absolute values; ties go to the first pixel. The area also grows with the model's confidence:
    compare models by this and :func:`deletion_area` together.

    | Paper link: https://arxiv.org/abs/1806.07421 (RISE: Petsiuk, Das, Saenko 2018)

    :param classifier: ART classifier.
    :param x: Images `(n, *input_shape)`, floating point, finite.
    :param y: Classes: indices `(n,)`, or rows `(n, nb_classes)`.
    :param saliency: Maps of the shape of `x`, finite.
    :param config: Of it `baseline`, `steps`, `batch_size` and `seed`.
    :return: Areas by the trapezoid rule, both ends included, from 0 to 1: `(n,)`, float64. More is better.
    :raises TypeError: If an argument has the wrong type.
    :raises ValueError: If arrays do not fit the classifier.

    Example:
    >>> from art_sensreg.interpret import insertion_area
    >>> model = torch.nn.Linear(4, 2)
    >>> for parameter in model.parameters():
    ...     _ = parameter.data.zero_()
    >>> classifier = PyTorchClassifier(model, torch.nn.CrossEntropyLoss(), (4,), 2)
    >>> insertion_area(classifier, np.ones((1, 4)), [0], np.ones((1, 4)))
    array([0.5])
    """
    images, labels = checked(classifier, x, y)
    maps, missing = check_map(saliency, images), full_baseline(config.baseline, images)
    return _area(classifier, missing, images, labels, maps, config)


def deletion_area(
    classifier: PyTorchClassifier, x: np.ndarray, y: Any, saliency: np.ndarray, config: ExplanationConfig = DEFAULT
) -> np.ndarray:
    """
    Area under the class probability as pixels are replaced by the baseline, the most salient first.

    Everything else is as for :func:`insertion_area`, but less is better.

    :param classifier: ART classifier.
    :param x: Images.
    :param y: Classes.
    :param saliency: Maps of the shape of `x`.
    :param config: Of it `baseline`, `steps`, `batch_size` and `seed`.
    :return: Areas `(n,)`, float64.

    Example:
    >>> from art_sensreg.interpret import deletion_area
    >>> classifier = PyTorchClassifier(torch.nn.Identity(), torch.nn.CrossEntropyLoss(), (2,), 2)
    >>> x = np.array([[4.0, 0.0]])
    >>> bool(deletion_area(classifier, x, [0], x)[0] < deletion_area(classifier, x, [0], 4 - x)[0])
    True
    """
    images, labels = checked(classifier, x, y)
    maps, missing = check_map(saliency, images), full_baseline(config.baseline, images)
    return _area(classifier, images, missing, labels, maps, config)


def blurred(x: np.ndarray, width: float) -> np.ndarray:
    """
    Images under a Gaussian blur, whose weights add up to 1 at the borders too: a baseline without sharp edges.

    :param x: Images `(n, ..., height, width)`.
    :param width: Standard deviation of the blur, in pixels, above 0.
    :return: Array of the shape of `x`.
    :raises TypeError: If `width` is not a number.
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
    before: np.ndarray,
    after: np.ndarray,
    labels: np.ndarray,
    maps: np.ndarray,
    config: ExplanationConfig,
) -> np.ndarray:
    """The area while the pixels of `before` become those of `after`, the most salient first."""
    ranks = _ranks(maps)
    pixels = int(ranks[0].size)
    counts = np.linspace(0, pixels, min(config.steps, pixels) + 1).round().astype(np.int64)
    curves = []
    with eval_logits(classifier, config.seed) as logits, torch.no_grad():
        for first, last, order, targets in batches(classifier, config.batch_size, before, after, ranks, labels):
            mixed = (torch.where(order < count, last, first) for count in counts.tolist())
            curve = [_probability(logits, batch, targets) for batch in mixed]
            curves.append(torch.stack(curve, dim=1).double().cpu().numpy())
    heights = np.concatenate(curves)
    areas: np.ndarray = (heights[:, 1:] + heights[:, :-1]) / 2 @ (np.diff(counts) / pixels)
    return areas


def _probability(logits: Logits, batch: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return logits(batch).softmax(1).gather(1, targets[:, None])[:, 0]


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
