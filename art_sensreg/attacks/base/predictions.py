"""The predictions of a classifier, and labels, as class indices."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier

from art_sensreg.art_bridge.checks import check_labels, class_indices
from art_sensreg.art_bridge.dtypes import model_dtype, numpy_dtype
from art_sensreg.art_bridge.preprocessing import copies_per_image, mean_of_copies
from art_sensreg.attacks.wrappers.torch_model import differentiable_model
from art_sensreg.classifiers import SensRegClassifier
from art_sensreg.outputs import class_scores


def labels_of(classifier: PyTorchClassifier, y: Any, n: int) -> np.ndarray:
    """Labels of `n` images in any form (indices, one-hot or soft labels) as int64 class indices, checked."""
    return class_indices(check_labels(y, classifier.nb_classes, n))


def predicted_labels(classifier: PyTorchClassifier, x: np.ndarray, batch_size: int = 128) -> np.ndarray:
    """The classes that a classifier's own `predict` assigns to floating point images, as int64 `(n,)`."""
    if not len(x):
        return np.zeros(0, dtype=np.int64)
    classes: np.ndarray = predicted_scores(classifier, x, batch_size).argmax(axis=1)
    return classes


def predicted_scores(classifier: PyTorchClassifier, x: np.ndarray, batch_size: int = 128) -> np.ndarray:
    """
    The outputs of a classifier's own `predict` for at least one image, with one column per class, `(n, C)`.

    The copies that ART's EoT preprocessors make of an image are averaged; a single output becomes two columns
    (`outputs.class_scores`).
    """
    images = _as_model_input(classifier, x)
    try:
        outputs = np.asarray(classifier.predict(images, batch_size=batch_size))
    except (AttributeError, TypeError):
        with torch.no_grad():  # a model that returns no tensor has a clearer error
            differentiable_model(classifier)(torch.from_numpy(images[:1]).to(classifier.device))
        raise
    if len(outputs) != len(x):
        outputs = mean_of_copies(outputs, len(x), copies_per_image(classifier))
    return class_scores(outputs, classifier)


def _as_model_input(classifier: PyTorchClassifier, x: np.ndarray) -> np.ndarray:
    """Images in the model's dtype; ART's own `predict` does not convert them."""
    if isinstance(classifier, SensRegClassifier):
        return x
    if model_dtype(classifier.model) == torch.bfloat16:
        raise TypeError(
            "`classifier` computes in bfloat16, which numpy does not have, so that ART's own `predict` takes no "
            "images; expected a SensRegClassifier around the model, which converts them."
        )
    return x.astype(numpy_dtype(classifier.model), copy=False)
