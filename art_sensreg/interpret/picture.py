"""A plot of images and the saliency maps of several models, side by side."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier

from art_sensreg.interpret.saliency import BENCH_EXTRA, SALIENCIES, batches, checked, eval_logits
from art_sensreg.utils import check_choice, shown
from art_sensreg.utils.checks import optional_module
from art_sensreg.utils.files import atomic_write

_INCHES = 1.5  # of an image


def saliency_picture(
    classifiers: Mapping[str, PyTorchClassifier],
    x: np.ndarray,
    y: Any,
    path: str | os.PathLike[str],
    saliencies: Sequence[str] = ("gradient", "integrated_gradients"),
) -> Path:
    """
    Draw images and their saliency maps: a row for each image, a column for each map of each model.

    Maps are of the label's logit, summed over channels: red supports the label, blue opposes it, white is 0. Every map
    has its own scale, up to the 99th percentile of its absolute values: patterns can be compared, magnitudes cannot.
    The model's prediction is shown below each map.

    :param classifiers: Models of one input shape, by the names that are shown.
    :param x: Images `(n, channels, height, width)` or `(n, height, width)`, floating point, within `clip_values`. Three
        channels are shown as colours, of any other number their mean.
    :param y: Labels: class indices `(n,)`, or rows `(n, nb_classes)`.
    :param path: Where the PNG goes; it is replaced as a whole.
    :param saliencies: Names of maps, from `SALIENCIES`.
    :return: The path.
    :raises ImportError: If matplotlib, or Captum for integrated gradients, is missing.
    :raises TypeError: If an argument has the wrong type.
    :raises ValueError: If images and labels do not fit the classifiers, a name is unknown, or there is nothing to draw.

    Example:
    >>> from tempfile import TemporaryDirectory
    >>> from art_sensreg.interpret import saliency_picture
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    >>> classifier = PyTorchClassifier(model, torch.nn.CrossEntropyLoss(), (1, 4, 4), 2)
    >>> with TemporaryDirectory() as folder:
    ...     saliency_picture({"mine": classifier}, np.ones((2, 1, 4, 4)), [0, 1], Path(folder) / "maps.png").name
    'maps.png'
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"`path` is {shown(path)}; expected the path of a file.")
    images, labels = _check_arguments(classifiers, x, y, saliencies)
    maps = {
        (model, kind): SALIENCIES[kind](classifier, images, labels)
        for model, classifier in classifiers.items()
        for kind in saliencies
    }
    predicted = {model: _predicted(classifier, images) for model, classifier in classifiers.items()}
    shape = (len(images), 1 + len(maps))
    # Not pyplot, which keeps every figure and the backend for the whole process.
    figure = optional_module("matplotlib.figure", BENCH_EXTRA).Figure(
        figsize=(_INCHES * shape[1], (_INCHES + 0.3) * shape[0] + 0.5), layout="constrained"
    )
    axes = figure.subplots(*shape, squeeze=False)
    low, high = value_range(next(iter(classifiers.values())), images)
    for row, image in enumerate(images):
        show_image(axes[row, 0], image, low, high)
        axes[row, 0].set_xlabel(f"label {labels[row]}", fontsize=8)
        for axis, ((model, kind), values) in zip(axes[row, 1:], maps.items(), strict=True):
            show_map(axis, values[row])
            right = predicted[model][row] == labels[row]
            text = f"predicts {predicted[model][row]}, {'right' if right else 'wrong'}"
            axis.set_xlabel(text, fontsize=8, color="black" if right else "firebrick")
            if row == 0:
                axis.set_title(f"{model}\n{kind.replace('_', ' ')}", fontsize=8)
    return _write(figure, Path(path))


def _check_arguments(
    classifiers: Mapping[str, PyTorchClassifier], x: Any, y: Any, saliencies: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(classifiers, Mapping):
        raise TypeError(f"`classifiers` is {type(classifiers).__name__}; expected a dict of classifiers by name.")
    if not isinstance(saliencies, Iterable):
        raise TypeError(f"`saliencies` is {shown(saliencies)}; expected a list of names.")
    if not classifiers or isinstance(saliencies, str) or not saliencies:
        name = "saliencies" if classifiers else "classifiers"
        raise ValueError(f"`{name}` is {saliencies if classifiers else classifiers!r}; expected at least one, by name.")
    for name in saliencies:
        check_choice("saliencies", name, tuple(SALIENCIES))
    for name, classifier in classifiers.items():
        if not isinstance(name, str) or not isinstance(classifier, PyTorchClassifier):
            raise TypeError(
                f"`classifiers` has {shown(name)}: {shown(classifier)}; expected a PyTorchClassifier by name."
            )
        images, labels = checked(classifier, x, y, classifier.clip_values)
    if images.ndim not in (3, 4):
        raise ValueError(f"`x` has shape {images.shape}; expected (n, channels, height, width) or (n, height, width).")
    return images, labels


def _predicted(classifier: PyTorchClassifier, images: np.ndarray) -> np.ndarray:
    with eval_logits(classifier) as logits, torch.no_grad():
        parts = [logits(rows).argmax(1).cpu().numpy() for (rows,) in batches(classifier, 128, images)]
    return np.concatenate(parts)


def value_range(classifier: PyTorchClassifier, images: np.ndarray) -> tuple[float, float]:
    clip = (images, images) if classifier.clip_values is None else classifier.clip_values
    low, high = float(np.min(clip[0])), float(np.max(clip[1]))
    return low, high if high > low else low + 1.0


def show_image(axis: Any, image: np.ndarray, low: float, high: float) -> None:
    if image.ndim == 3 and image.shape[0] == 3:
        axis.imshow(np.clip((image.transpose(1, 2, 0) - low) / (high - low), 0.0, 1.0))
    else:
        axis.imshow(image if image.ndim == 2 else image.mean(axis=0), cmap="gray", vmin=low, vmax=high)
    axis.set_xticks([])
    axis.set_yticks([])


def show_map(axis: Any, values: np.ndarray) -> None:
    plane = values if values.ndim == 2 else values.sum(axis=0)
    # A few pixels of extreme slope would leave the others white.
    limit = float(np.percentile(np.abs(plane), 99)) or float(np.abs(plane).max()) or 1.0
    axis.imshow(plane, cmap="RdBu_r", vmin=-limit, vmax=limit)
    axis.set_xticks([])
    axis.set_yticks([])


def _write(figure: Any, path: Path) -> Path:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    atomic_write(path, file.getvalue())
    return path
