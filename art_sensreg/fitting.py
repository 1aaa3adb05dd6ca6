"""From an ART classifier and numpy data to the training loop: checks, preprocessing, objective."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from art.data_generators import DataGenerator, NumpyDataGenerator
from art.estimators.classification import PyTorchClassifier
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from art_sensreg.objectives import Objective, Penalty
from art_sensreg.penalties.taps import trial
from art_sensreg.preprocessing import fit_preprocessing, numpy_dtype, trained_model
from art_sensreg.training.config import TrainingConfig
from art_sensreg.training.inputs import check_images, check_labels, clip_bounds
from art_sensreg.training.loop import CallableBatches, History, TensorBatches, train

logger = logging.getLogger(__name__)


def fit_arrays(
    classifier: PyTorchClassifier,
    penalties: Sequence[Penalty],
    config: TrainingConfig,
    x: Any,
    y: Any,
    validation_data: Any = None,
    scheduler: Any = None,
    verbose: bool = False,
    training_mode: bool = True,
) -> History:
    """
    Check the data and train any ART PyTorch classifier on it.

    :param classifier: The classifier, trained in place.
    :param penalties: The penalties.
    :param config: Settings.
    :param x: Images, as for :meth:`SensRegClassifier.fit`.
    :param y: Labels.
    :param validation_data: Pair of images and labels, or None.
    :param scheduler: Learning rate scheduler, or None.
    :param verbose: Whether a progress bar is shown.
    :param training_mode: Whether the model trains in training mode.
    :return: The history (see `training.loop.train`).
    :raises TypeError: If something is of a wrong type.
    :raises ValueError: If something is out of range, before any weight has moved.
    """
    optimizer = _check_optimizer(classifier, scheduler)
    images, labels = _check_pair(classifier, x, y)
    images, labels = fit_preprocessing(classifier, images, labels)
    targets = _targets(classifier, labels)
    batches = TensorBatches(
        _as_tensor(classifier, images),
        targets,
        config.batch_size,
        config.drop_last,
        no_single=_has_batch_norm(classifier),
    )
    model, objective = _prepare(classifier, penalties, batches.x[:2])
    validation = _check_validation(classifier, validation_data)
    return train(model, objective, batches, optimizer, config, scheduler, validation, verbose, training_mode)


def fit_batches(
    classifier: PyTorchClassifier,
    penalties: Sequence[Penalty],
    config: TrainingConfig,
    generator: DataGenerator,
    validation_data: Any = None,
    scheduler: Any = None,
    verbose: bool = False,
) -> History:
    """
    Train any ART PyTorch classifier on batches of one of ART's data generators.

    :param classifier: The classifier, trained in place.
    :param penalties: The penalties.
    :param config: Settings; `batch_size` and `drop_last` are the generator's affair.
    :param generator: Generator with a known `size`.
    :param validation_data: Pair of images and labels, or None.
    :param scheduler: Learning rate scheduler, or None.
    :param verbose: Whether a progress bar is shown.
    :return: The history.
    :raises TypeError: If something is of a wrong type.
    :raises ValueError: If something is out of range; each batch is checked as it comes.
    """
    optimizer = _check_optimizer(classifier, scheduler)
    if not isinstance(generator, DataGenerator):
        raise TypeError(f"`generator` is {type(generator).__name__}; expected an art.data_generators.DataGenerator.")
    if generator.size is None:
        raise ValueError("`generator` has no size; expected one that knows how many images an epoch has.")
    if isinstance(generator, NumpyDataGenerator):
        _check_pair(classifier, generator.x, generator.y)  # all of it, before any weight moves
    needs_two = _has_batch_norm(classifier)

    def draw() -> tuple[torch.Tensor, torch.Tensor]:
        for _ in range(2):
            images, labels = _check_pair(classifier, *generator.get_batch())
            if len(images) > 1 or not needs_two:
                break
            logger.warning("A batch of a single image is left out: BatchNorm cannot normalise it.")
        images, labels = fit_preprocessing(classifier, images, labels)
        return _as_tensor(classifier, images), _targets(classifier, labels)

    first: list[Any] = [draw()]  # looked at before training, and trained on as the first batch
    model, objective = _prepare(classifier, penalties, first[0][0][:2])
    validation = _check_validation(classifier, validation_data)
    length = math.ceil(generator.size / generator.batch_size)
    batches = CallableBatches(lambda: first.pop() if first else draw(), length)
    return train(model, objective, batches, optimizer, config, scheduler, validation, verbose)


def _check_optimizer(classifier: PyTorchClassifier, scheduler: Any) -> torch.optim.Optimizer:
    expected = "expected a torch optimizer of the model's parameters"
    if classifier.optimizer is None:
        raise ValueError(f"`optimizer` of the classifier is None; {expected}.")
    optimizer: torch.optim.Optimizer = classifier.optimizer
    if isinstance(optimizer, torch.optim.LBFGS):
        raise TypeError("`optimizer` of the classifier is LBFGS; expected one whose step needs no closure.")
    trained = {id(parameter) for parameter in classifier.model.parameters() if parameter.requires_grad}
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not trained & held:
        raise ValueError(
            f"`optimizer` of the classifier holds none of the {len(trained)} parameters that require gradients; "
            f"{expected}."
        )
    if getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise ValueError("`scheduler` drives another optimizer; expected one of the classifier's own optimizer.")
    return optimizer


def _has_batch_norm(classifier: PyTorchClassifier) -> bool:
    return any(isinstance(module, _BatchNorm) for module in classifier.model.modules())


def _as_tensor(classifier: PyTorchClassifier, images: np.ndarray) -> torch.Tensor:
    # torch warns of arrays that are not writable, which memory maps may be.
    return torch.from_numpy(images if images.flags.writeable else images.copy()).to(classifier.device)


def _check_pair(classifier: PyTorchClassifier, x: Any, y: Any, prefix: str = "") -> tuple[np.ndarray, np.ndarray]:
    dtype = numpy_dtype(classifier.model)
    images = check_images(x, classifier.input_shape, classifier.clip_values, f"{prefix}x", dtype)
    return images, check_labels(y, classifier.nb_classes, len(images), f"{prefix}y")


def _check_validation(classifier: PyTorchClassifier, validation_data: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    if validation_data is None:
        return None
    if not isinstance(validation_data, (tuple, list)) or len(validation_data) != 2:
        raise TypeError(f"`validation_data` is {type(validation_data).__name__}; expected a pair (x, y).")
    x, y = validation_data
    images, labels = _check_pair(classifier, x, y, prefix="validation_data: ")
    images, labels = fit_preprocessing(classifier, images, labels, fit=False)
    return _as_tensor(classifier, images), _targets(classifier, labels)


def _targets(classifier: PyTorchClassifier, labels: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(classifier.reduce_labels(labels)).to(classifier.device)


def _prepare(
    classifier: PyTorchClassifier, penalties: Sequence[Penalty], x: torch.Tensor
) -> tuple[nn.Module, Objective]:
    bounds = None
    if classifier.clip_values is not None:
        low, high = (
            torch.as_tensor(bound, dtype=x.dtype, device=x.device)
            for bound in clip_bounds(classifier.clip_values, classifier.input_shape)
        )
        bounds = (low, high)
    model = trained_model(classifier)
    _check_output(classifier, model, x)
    objective = Objective(penalties, classifier.loss, bounds)
    objective.prepare(model, x)
    return model, objective


def _check_output(classifier: PyTorchClassifier, model: nn.Module, x: torch.Tensor) -> None:
    """Two rows through the model in evaluation mode: does it return one logit a class?"""
    with trial(model, x):
        logits = model(x.clone())
    classes = classifier.nb_classes
    shapes = [(len(x), classes), *([(len(x), 1)] if classes == 2 else [])]
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) not in shapes:
        came = f"shape {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(f"`model` returns {came} for {len(x)} images; expected logits of shape {shapes[0]}.")
