"""Saliency maps of any of ART's PyTorch classifiers, in the user's input units; nothing of the classifier is moved."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier

from art_sensreg.art_bridge.checks import check_images, check_labels, class_indices
from art_sensreg.attacks.wrappers.torch_model import check_classifier, differentiable_model
from art_sensreg.utils import check_count, check_differentiable, check_flag
from art_sensreg.utils.model_rng import preserve_model
from art_sensreg.utils.modes import eval_mode

logger = logging.getLogger(__name__)

Logits = Callable[[torch.Tensor], torch.Tensor]
# From a classifier, images (n, ...) and their classes (n,) to maps of the shape of the images.
Saliency = Callable[[PyTorchClassifier, np.ndarray, Any], np.ndarray]


def input_gradient(
    classifier: PyTorchClassifier, x: np.ndarray, y: Any, batch_size: int = 128, seed: int = 0
) -> np.ndarray:
    """
    Gradient of the logit of a class by the image.

    Zero where autograd sees no way from the image to the logit.

    | Paper link: https://arxiv.org/abs/1312.6034 (Simonyan, Vedaldi, Zisserman 2014, section 3)

    :param classifier: ART classifier, with any preprocessing; a random one is averaged as it averages itself.
    :param x: Images `(n, *input_shape)`, floating point, finite.
    :param y: Classes whose logits are explained: indices `(n,)`, or rows `(n, nb_classes)`.
    :param batch_size: Rows of a pass.
    :param seed: Seed of the draws of a random model.
    :return: float32 array of the shape of `x`, in logits per input unit; signed.
    :raises TypeError: If an argument is of a wrong type.
    :raises ValueError: If images or labels do not fit the classifier, or an argument is out of range.

    Example:
    >>> from art_sensreg.interpret import input_gradient
    >>> classifier = PyTorchClassifier(torch.nn.Identity(), torch.nn.CrossEntropyLoss(), (3,), 3)
    >>> input_gradient(classifier, np.ones((2, 3)), [0, 2])
    array([[1., 0., 0.],
           [0., 0., 1.]], dtype=float32)
    """
    images, labels = checked(classifier, x, y)
    with evaluated(classifier, seed) as logits:
        maps = [_gradient(logits, *batch) for batch in batches(classifier, batch_size, images, labels)]
    return np.concatenate(maps)


def integrated_gradients(
    classifier: PyTorchClassifier,
    x: np.ndarray,
    y: Any,
    baseline: float | np.ndarray = 0.0,
    steps: int = 32,
    multiply_by_inputs: bool = True,
    batch_size: int = 128,
    seed: int = 0,
) -> np.ndarray:
    """
    Integrated gradients of the logit of a class: `(x - b) * integral_0^1 of the gradient at b + t (x - b) dt`.

    They add up to the logit at the image minus that at the baseline, but for the error of the numerical integral
    (Captum's Gauss-Legendre quadrature).

    | Paper link: https://arxiv.org/abs/1703.01365 (Sundararajan, Taly, Yan 2017, equation 1)

    :param classifier: ART classifier, with any preprocessing; a random one is averaged as it averages itself.
    :param x: Images `(n, *input_shape)`, floating point, finite.
    :param y: Classes whose logits are explained: indices `(n,)`, or rows `(n, nb_classes)`.
    :param baseline: `b`, in input units: a number, or an array that broadcasts against `x`.
    :param steps: Gradients of an integral.
    :param multiply_by_inputs: False leaves out the factor `x - b`: the mean gradient on the way, per input unit.
    :param batch_size: Rows of a pass.
    :param seed: Seed of the draws of a random model.
    :return: float32 array of the shape of `x`, in logits (or logits per input unit); signed.
    :raises ImportError: If Captum is missing.
    :raises TypeError: If an argument is of a wrong type.
    :raises ValueError: If images, labels or baseline do not fit the classifier, or an argument is out of range.

    Example:
    >>> from art_sensreg.interpret import integrated_gradients
    >>> classifier = PyTorchClassifier(torch.nn.Identity(), torch.nn.CrossEntropyLoss(), (3,), 3)
    >>> integrated_gradients(classifier, np.full((1, 3), 3.0), [1], baseline=1.0).round(4)
    array([[0., 2., 0.]], dtype=float32)
    """
    check_count("steps", steps)
    check_flag("multiply_by_inputs", multiply_by_inputs)
    images, labels = checked(classifier, x, y)
    starts = full_baseline(baseline, images)
    with evaluated(classifier, seed) as logits:
        method = optional_module("captum.attr").IntegratedGradients(logits, multiply_by_inputs=multiply_by_inputs)
        maps = []
        for rows, start, targets in batches(classifier, batch_size, images, starts, labels):
            # No fewer rows than images: Captum takes at least one step of all of them at once.
            map_of_rows = method.attribute(
                rows, start, targets, n_steps=int(steps), internal_batch_size=max(int(batch_size), len(rows))
            )
            maps.append(_as_array(map_of_rows))
    return np.concatenate(maps)


SALIENCIES: dict[str, Callable[..., np.ndarray]] = {
    "gradient": input_gradient,
    "integrated_gradients": integrated_gradients,
}


def optional_module(name: str) -> Any:
    """
    Import a module of the `bench` extra, which the core does without.

    :param name: Name of the module.
    :return: The module.
    :raises ImportError: If it is missing.

    Example:
    >>> from art_sensreg.interpret.saliency import optional_module
    >>> optional_module("no_such_package.part")
    Traceback (most recent call last):
    ...
    ImportError: no_such_package is missing; install art_sensreg[bench].
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"{name.partition('.')[0]} is missing; install art_sensreg[bench].") from error


@contextmanager
def evaluated(classifier: PyTorchClassifier, seed: int = 0) -> Iterator[Logits]:
    """
    Inside, a classifier can be run in evaluation mode; modes, buffers and random states are put back afterwards.

    :param classifier: ART classifier.
    :param seed: Seed of all that is random inside.
    :return: Context of the function from images in the user's units to logits `(n, C)`. Autograd always sees a way from
        the one to the other, if need be one of slope 0.
    :raises TypeError: If it is not one of ART's PyTorch classifiers.

    Example:
    >>> from art_sensreg.interpret.saliency import evaluated
    >>> model = torch.nn.Dropout()
    >>> classifier = PyTorchClassifier(model, torch.nn.CrossEntropyLoss(), (2,), 2, preprocessing=(0.5, 2.0))
    >>> with evaluated(classifier) as logits:
    ...     logits(torch.tensor([[0.5, 2.5]])), model.training
    (tensor([[0., 1.]]), False)
    >>> model.training
    True
    """
    check_count("seed", seed, minimum=0)
    model = check_classifier(classifier).model
    check_differentiable(model, "classifier")
    with torch.inference_mode(False), eval_mode(model), preserve_model(model, classifier.device, int(seed)):
        view, looked = differentiable_model(classifier), False

        def logits(x: torch.Tensor) -> torch.Tensor:
            nonlocal looked
            # A copy: the first layer may work in place.
            output: torch.Tensor = view(x.clone())
            if not torch.is_grad_enabled():
                return output
            if x.requires_grad and not looked:
                looked = True
                _say_if_cut(output, x)
            return output + (0.0 * x).flatten(1).sum(1, keepdim=True)

        yield logits


def _say_if_cut(output: torch.Tensor, x: torch.Tensor) -> None:
    total = output.sum()
    if total.requires_grad and torch.autograd.grad(total, x, retain_graph=True, allow_unused=True)[0] is not None:
        return
    logger.warning("Autograd sees no way from the images to the logits: their gradient is taken to be zero.")


def checked(classifier: PyTorchClassifier, x: Any, y: Any, clip_values: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """
    Check images and labels.

    :param classifier: ART classifier.
    :param x: Images.
    :param y: Class indices `(n,)`, or rows `(n, nb_classes)`.
    :param clip_values: Range of the images; None: any, since perturbed ones leave it.
    :return: The images, and class indices `(n,)`.
    :raises TypeError: If an argument is of a wrong type.
    :raises ValueError: If they do not fit the classifier.

    Example:
    >>> from art_sensreg.interpret.saliency import checked
    >>> classifier = PyTorchClassifier(torch.nn.Identity(), torch.nn.CrossEntropyLoss(), (3,), 3)
    >>> checked(classifier, np.ones((2, 3)), np.eye(3)[1:])[1]
    array([1, 2])
    """
    images = check_images(x, check_classifier(classifier).input_shape, clip_values)
    return images, class_indices(check_labels(y, classifier.nb_classes, len(images)))


def full_baseline(baseline: float | np.ndarray, images: np.ndarray) -> np.ndarray:
    """
    A baseline for every image.

    :param baseline: A number, or an array that broadcasts against the images.
    :param images: Images.
    :return: float32 array of the shape of the images.
    :raises TypeError: If it is no number or array of numbers.
    :raises ValueError: If it is of another shape, or not finite.

    Example:
    >>> from art_sensreg.interpret.saliency import full_baseline
    >>> full_baseline(0.5, np.ones((1, 2)))
    array([[0.5, 0.5]], dtype=float32)
    """
    array = np.asarray(baseline)
    expected = f"a finite number or an array that broadcasts against {images.shape}, in input units"
    if array.dtype.kind not in "iuf":
        raise TypeError(f"`baseline` is {baseline!r}; expected {expected}.")
    if not np.isfinite(array).all():
        raise ValueError(f"`baseline` has NaN or infinite values; expected {expected}.")
    try:
        return np.broadcast_to(array.astype(np.float32), images.shape)
    except ValueError:
        raise ValueError(f"`baseline` has shape {array.shape}; expected {expected}.") from None


def batches(classifier: PyTorchClassifier, batch_size: int, *arrays: np.ndarray) -> Iterator[tuple[torch.Tensor, ...]]:
    """
    Batches on the classifier's device.

    :param classifier: ART classifier.
    :param batch_size: Rows of a batch.
    :param arrays: Arrays of equal length: floats become float32.
    :return: For each batch, the rows of each array.

    Example:
    >>> from art_sensreg.interpret.saliency import batches
    >>> classifier = PyTorchClassifier(torch.nn.Identity(), torch.nn.CrossEntropyLoss(), (3,), 3)
    >>> [(len(rows), targets.tolist()) for rows, targets in batches(classifier, 2, np.ones((3, 3)), np.arange(3))]
    [(2, [0, 1]), (1, [2])]
    """
    check_count("batch_size", batch_size)
    for start in range(0, len(arrays[0]), int(batch_size)):
        # Copies: torch warns of arrays that are not writable, and models may work in place.
        parts = [np.array(array[start : start + int(batch_size)]) for array in arrays]
        floats = [part.astype(np.float32, copy=False) if part.dtype.kind == "f" else part for part in parts]
        yield tuple(torch.from_numpy(part).to(classifier.device) for part in floats)


def _gradient(logits: Logits, rows: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
    with torch.enable_grad():
        rows.requires_grad_(True)
        chosen = logits(rows).gather(1, targets[:, None]).sum()
        (gradient,) = torch.autograd.grad(chosen, rows)
    return _as_array(gradient)


def _as_array(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
    return array
