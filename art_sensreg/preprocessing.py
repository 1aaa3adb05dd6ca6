"""ART preprocessing during training: the standardisation inside the penalties' pass, everything else once before."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from art.preprocessing.standardisation_mean_std.numpy import StandardisationMeanStd
from art.preprocessing.standardisation_mean_std.pytorch import StandardisationMeanStdPyTorch
from art.preprocessing.standardisation_mean_std.utils import broadcastable_mean_std
from art.utils import to_categorical
from torch import nn

from art_sensreg.main_output import ModelWrapper
from art_sensreg.training.random_state import random_state, restore_random_state

_STANDARDISATIONS = (StandardisationMeanStd, StandardisationMeanStdPyTorch)


class StandardisedModel(ModelWrapper):
    """
    A model behind `(x - mean) / std`, so that noise and derivatives are in the user's input units.

    :param model: The model.
    :param mean: Broadcasts against a batch.
    :param std: Broadcasts against a batch.

    Example:
    >>> from art_sensreg.preprocessing import StandardisedModel
    >>> StandardisedModel(nn.Identity(), torch.tensor(1.0), torch.tensor(2.0))(torch.tensor([[3.0]]))
    tensor([[1.]])
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: nn.Module, mean: torch.Tensor, std: torch.Tensor) -> None:
        super().__init__(model)
        # They follow the model to another device or precision, and stand in no file of its weights.
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model((x - self.mean) / self.std)
        return logits


def model_dtype(model: nn.Module) -> torch.dtype:
    """
    The floating point type that a model computes in.

    :param model: Any module.
    :return: That of its first floating point parameter; float32 if it has none.

    Example:
    >>> from art_sensreg.preprocessing import model_dtype
    >>> model_dtype(nn.Linear(2, 2).double())
    torch.float64
    """
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def numpy_dtype(model: nn.Module) -> np.dtype:
    """
    The numpy type of a model's inputs.

    :param model: Any module.
    :return: float16, float32 or float64.
    :raises TypeError: If the model computes in a type that numpy has not.

    Example:
    >>> from art_sensreg.preprocessing import numpy_dtype
    >>> numpy_dtype(nn.Linear(2, 2))
    dtype('float32')
    """
    dtype = model_dtype(model)
    if dtype not in (torch.float16, torch.float32, torch.float64):
        raise TypeError(f"`model` computes in {dtype}; expected parameters in float16, float32 or float64.")
    return torch.empty((), dtype=dtype).numpy().dtype


def trained_model(classifier: PyTorchClassifier) -> nn.Module:
    """
    The function that is trained: the classifier's model, behind its standardisation if that does anything.

    :param classifier: ART classifier.
    :return: The model itself, or a :class:`StandardisedModel` around it.
    """
    model: nn.Module = classifier.model
    last = _standardisation(classifier)
    if last is None or (np.all(np.asarray(last.mean) == 0) and np.all(np.asarray(last.std) == 1)):
        return model
    image = np.zeros((1, *classifier.input_shape), dtype=np.float32)
    mean, std = broadcastable_mean_std(image, np.asarray(last.mean), np.asarray(last.std))
    dtype = model_dtype(model)
    as_tensor = [torch.as_tensor(value, dtype=dtype, device=classifier.device) for value in (mean, std)]
    return StandardisedModel(model, *as_tensor)


def fit_preprocessing(
    classifier: PyTorchClassifier, x: np.ndarray, y: np.ndarray, fit: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """
    Apply the classifier's preprocessing except its standardisation, once to all data, as ART's `fit` does.

    :param classifier: ART classifier.
    :param x: Images `(n, ...)`.
    :param y: Class indices `(n,)`, or rows of class probabilities `(n, C)`. Preprocessors get rows where they need
        them: those of ART that leave labels alone do not.
    :param fit: Whether the training (`apply_fit`) or the test (`apply_predict`) preprocessors run.
    :return: Images, of the dtype of `x`, and labels.
    """
    last = _standardisation(classifier)
    kind = x.dtype
    for operation in classifier.preprocessing_operations:
        if operation is not last and (operation.apply_fit if fit else operation.apply_predict):
            x, y = _applied(operation, x, y, classifier.nb_classes)
    return np.ascontiguousarray(x, dtype=kind), y


def _applied(operation: Any, x: np.ndarray, y: np.ndarray, nb_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Apply one preprocessor; class indices are made rows for those that do something with labels."""
    if y.ndim == 1 and type(operation).__module__.partition(".")[0] in ("art", "art_sensreg"):
        drawn = random_state()
        try:
            new_x, new_y = operation(x, y)
            if new_y is y or np.array_equal(new_y, y):
                return new_x, y
        except Exception:  # noqa: BLE001 - it takes rows only, or fails with those too
            pass
        restore_random_state(drawn)
    x, y = operation(x, to_categorical(y, nb_classes) if y.ndim == 1 else y)
    return x, y


def _standardisation(classifier: PyTorchClassifier) -> Any:
    operations = classifier.preprocessing_operations
    return operations[-1] if operations and isinstance(operations[-1], _STANDARDISATIONS) else None
