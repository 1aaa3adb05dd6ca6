"""Predictions and input gradients at the cost of a plain PyTorch loop, for classifiers whose pipeline adds nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from art.preprocessing.standardisation_mean_std.pytorch import StandardisationMeanStdPyTorch
from torch import nn
from torch.nn.modules.module import _has_any_global_hook

from art_sensreg.art_bridge.whole_model import is_its_children
from art_sensreg.models import FeatureClassifier, PreActBlock

logger = logging.getLogger(__name__)

Function = Callable[[torch.Tensor], Any]
Hooks = tuple[Callable[..., Any], ...]

# What ART calls between the user's arrays and the model, and subclasses may override.
_HOOKS = ("_apply_preprocessing", "_apply_postprocessing", "_make_model_wrapper", "reduce_labels")
_FLOATS = {np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)}

# Modules that neither write to their input nor keep it, nor hand out memory that they keep, unless changed by one of
# the attributes below. Gradients of models of nothing else need no copies, which cost a small one 6 % of its time.
_HARMLESS = {nn.Sequential, FeatureClassifier, PreActBlock, nn.Identity, nn.Flatten, nn.Linear, nn.Conv1d, nn.Conv2d}
_HARMLESS |= {nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm, nn.MaxPool2d, nn.AvgPool2d, nn.Dropout}
_HARMLESS |= {nn.AdaptiveAvgPool2d, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Softplus, nn.Tanh, nn.Sigmoid}
_HARMLESS |= {nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss, nn.BCELoss, nn.BCEWithLogitsLoss}
_CHANGES = ["inplace", "forward", "_compiled_call_impl", "_forward_hooks", "_forward_pre_hooks"]
_CHANGES += ["_backward_hooks", "_backward_pre_hooks"]


def hooks_of(kind: type[PyTorchClassifier]) -> Hooks:
    """
    The functions of a class that ART calls between the user's arrays and the model.

    :param kind: Class of a classifier.
    :return: Its preprocessing, postprocessing, wrapping of models, and reducing of labels.

    Example:
    >>> from art_sensreg.art_bridge.inference import hooks_of
    >>> [hook.__name__ for hook in hooks_of(PyTorchClassifier)]
    ['_apply_preprocessing', '_apply_postprocessing', '_make_model_wrapper', 'reduce_labels']
    """
    hooks: Hooks = attrgetter(*_HOOKS)(kind)
    return hooks


def plain_function(classifier: PyTorchClassifier, hooks: Hooks) -> bool:
    """
    Whether a classifier is its model behind a standardisation, and nothing else that ART would run.

    :param classifier: The classifier.
    :param hooks: The hooks whose effect is known.
    :return: False if the classifier has other hooks, any preprocessing but one torch standardisation, postprocessing,
        or runs under apex.

    Example:
    >>> from art_sensreg.art_bridge.inference import hooks_of, plain_function
    >>> classifier = PyTorchClassifier(nn.Linear(4, 2), nn.CrossEntropyLoss(), (4,), 2)
    >>> plain_function(classifier, hooks_of(PyTorchClassifier))
    True
    """
    operations = classifier.preprocessing_operations
    return (
        (not operations or (len(operations) == 1 and type(operations[0]) is StandardisationMeanStdPyTorch))
        and not classifier.postprocessing_defences
        and not classifier._use_amp
        and classifier.__dict__.keys().isdisjoint(_HOOKS)
        and hooks_of(type(classifier)) == hooks
    )


def predict_logits(classifier: PyTorchClassifier, x: np.ndarray, batch_size: int, training_mode: bool) -> np.ndarray:
    """
    What ART's `predict` returns for a :func:`plain_function`.

    :param classifier: The classifier.
    :param x: Images `(n, *input_shape)`, at least one, of any real type; not written to.
    :param batch_size: Rows of a forward pass.
    :param training_mode: Whether the model predicts in training mode.
    :return: float32 array `(n, nb_classes)`.

    Example:
    >>> from art_sensreg.art_bridge.inference import predict_logits
    >>> classifier = PyTorchClassifier(nn.Softplus(), nn.CrossEntropyLoss(), (2,), 2)
    >>> predict_logits(classifier, np.zeros((3, 2)), batch_size=2, training_mode=False).shape
    (3, 2)
    """
    modules = _modules(classifier._model)
    _set_training(modules, training_mode)
    function, dtype, device = _logits_function(classifier), _dtype(modules), classifier._device
    # ART's DataLoader draws one number; so models with noise of their own see the same noise after the same seed.
    torch.empty((), dtype=torch.int64).random_()
    outputs = []
    with torch.no_grad():
        for rows in _as_tensor(x).split(batch_size):
            # A copy: the first layer may work in place. It is aligned and in the cache, which gains what it costs.
            output = function(rows.to(device, dtype, copy=True))
            logits = output.to("cpu", torch.float32, copy=True).numpy()
            outputs.append(logits[:, None] if logits.ndim == 1 else logits)
    return np.vstack(outputs)


def input_gradient(classifier: PyTorchClassifier, x: Any, y: Any, training_mode: bool) -> Any:
    """
    What ART's `loss_gradient` returns for a :func:`plain_function`, by the input alone: weights keep their `.grad`.

    Not for recurrent models, of which ART puts single layers in training mode, nor where gradients are switched off.

    :param classifier: The classifier.
    :param x: Images `(n, *input_shape)`, numpy or torch; not written to.
    :param y: Labels, as for ART's `loss_gradient`.
    :param training_mode: Whether the model is in training mode.
    :return: Gradients of the shape of `x`, as float32 array or as tensor in the model's dtype; zeros, and a warning in
        the log, if autograd sees no way from `x` to the loss.
    :raises RuntimeError: If the loss is not a scalar.

    Example:
    >>> from art_sensreg.art_bridge.inference import input_gradient
    >>> classifier = PyTorchClassifier(nn.Identity(), nn.CrossEntropyLoss(), (2,), 2)
    >>> input_gradient(classifier, np.zeros((1, 2)), np.array([[0.0, 1.0]]), training_mode=False)
    array([[ 0.5, -0.5]], dtype=float32)
    """
    modules = _modules(classifier._model)
    _set_training(modules, training_mode)
    labels, dtype, loss = _labels(classifier, y), _dtype(modules), classifier._loss
    copies = not _harmless([*modules[1:], loss])
    if isinstance(x, torch.Tensor):
        leaf = (x.clone() if x.is_inference() else x.detach()).to(dtype)
    else:
        leaf = _as_tensor(x).to(classifier._device, dtype)
    leaf.requires_grad_(True)
    # Layers that work in place may do so neither on a leaf, nor on the caller's images.
    value = loss(_logits_function(classifier)(leaf.clone() if copies else leaf), labels)
    gradient = torch.autograd.grad(value, leaf, allow_unused=True)[0] if value.requires_grad else None
    if gradient is None:
        logger.warning("The loss does not depend on `x` in a way that autograd sees: its gradient is given as zeros.")
        gradient = torch.zeros_like(leaf, requires_grad=False)
    elif copies:
        # Hooks and functions of the user's may hold what they gave to autograd.
        gradient = gradient.detach().clone()
    gradient = gradient.contiguous()
    return gradient if isinstance(x, torch.Tensor) else gradient.to("cpu", torch.float32).numpy()


def _modules(model: nn.Module) -> list[nn.Module]:
    """All modules, parents first, children in order; a fraction of the cost of `model.modules()`."""
    found, waiting = [], [model]
    while waiting:
        module = waiting.pop()
        found.append(module)
        if module._modules:
            waiting.extend(child for child in reversed(module._modules.values()) if child is not None)
    return found


def _set_training(modules: list[nn.Module], mode: bool) -> None:
    """`model.train(mode)`, which costs more than to see that it would do nothing."""
    train = nn.Module.train
    for module in modules:
        # A module with a `train` of its own decides itself what that does.
        if module.training is not mode or type(module).train is not train or "train" in module.__dict__:
            modules[0].train(mode)
            return


def _dtype(modules: list[nn.Module]) -> torch.dtype:
    """See `preprocessing.model_dtype`."""
    for module in modules:
        for parameter in module._parameters.values():
            if parameter is not None and parameter.is_floating_point():
                return parameter.dtype
    return torch.float32


def _harmless(modules: list[nn.Module]) -> bool:
    return not _has_any_global_hook() and all(
        type(module) in _HARMLESS and not any(map(module.__dict__.get, _CHANGES)) for module in modules
    )


def _logits_function(classifier: PyTorchClassifier) -> Function:
    """The function of a batch in the model's dtype, on its device, that ART evaluates for a plain function."""
    wrapper = classifier._model
    model = wrapper._model
    function: Function = model
    if wrapper._forward_hooks or wrapper._forward_pre_hooks or wrapper._backward_hooks or wrapper._backward_pre_hooks:

        def function(x: torch.Tensor) -> Any:
            return wrapper(x)[-1]

    elif is_its_children(model):
        # Like ART's wrapper, which has the children called in turn, but without keeping what each returned: that costs
        # a convolutional network twice its time.
        def function(x: torch.Tensor) -> Any:
            for module in model._modules.values():
                x = module(x)
            return x

    for operation in classifier.preprocessing_operations:
        if operation.apply_predict and not _is_identity(operation):
            return lambda x: function(operation.forward(x)[0].to(x.dtype))
    return function


def _is_identity(operation: StandardisationMeanStdPyTorch) -> bool:
    mean, std = operation.mean, operation.std
    return bool(mean.ndim == 0 and std.ndim == 0 and mean.item() == 0 and std.item() == 1)


def _as_tensor(x: np.ndarray) -> torch.Tensor:
    """A contiguous tensor of floats, on the array's own memory where torch can take that."""
    if x.dtype not in _FLOATS:
        x = x.astype(np.float32 if x.dtype.itemsize <= 2 else np.float64)
    # torch refuses negative strides, and warns of arrays that are not writable, which memory maps may be.
    return torch.from_numpy(x if x.flags.carray else np.array(x, order="C"))


def _labels(classifier: PyTorchClassifier, y: Any) -> torch.Tensor:
    """Labels as the classifier's loss takes them."""
    if isinstance(y, torch.Tensor):
        labels = y.detach().clone()
    elif _is_one_hot(classifier, y):
        # What `reduce_labels` does, in fewer steps: they would take a small model a tenth of its time.
        return torch.from_numpy(y.argmax(1)).to(classifier._device)
    else:
        labels = torch.tensor(y).to(classifier._device)
    reduced: torch.Tensor = classifier.reduce_labels(labels)
    return reduced


def _is_one_hot(classifier: PyTorchClassifier, y: Any) -> bool:
    """Whether labels are float32 rows of whole numbers, for a loss that takes class indices or rows."""
    if not (classifier._probability_labels and isinstance(y, np.ndarray) and y.dtype.char == "f"):
        return False
    if y.shape != (len(y), classifier._nb_classes) or not y.flags.carray:
        return False
    rows = torch.from_numpy(y)
    return torch.equal(rows, rows.floor())
