"""Saliency maps of any ART PyTorch classifier, in the user's input units; the classifier is left unchanged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier

from art_sensreg.art_bridge.checks import check_images, check_labels, class_indices
from art_sensreg.attacks.wrappers.torch_model import check_classifier, differentiable_model
from art_sensreg.interpret.config import DEFAULT, ExplanationConfig
from art_sensreg.utils import check_differentiable, check_flag
from art_sensreg.utils.checks import optional_module
from art_sensreg.utils.model_rng import preserve_model
from art_sensreg.utils.modes import eval_mode

logger = logging.getLogger(__name__)

Logits = Callable[[torch.Tensor], torch.Tensor]
# From a classifier, images (n, ...) and their classes (n,) to maps of the shape of the images.
Saliency = Callable[[PyTorchClassifier, np.ndarray, Any], np.ndarray]


def input_gradient(
    classifier: PyTorchClassifier, x: np.ndarray, y: Any, config: ExplanationConfig = DEFAULT
) -> np.ndarray:
    """
    Gradient of the logit of a class with respect to the image; zero where autograd finds no path between them.

    | Paper link: https://arxiv.org/abs/1312.6034 (Simonyan, Vedaldi, Zisserman 2014, section 3)

    :param classifier: ART classifier, with any preprocessing; a random one is averaged as it averages itself.
    :param x: Images `(n, *input_shape)`, floating point, finite.
    :param y: Classes whose logits are explained: indices `(n,)`, or rows `(n, nb_classes)`.
    :param config: Of it `batch_size` and `seed`.
    :return: float32 array of the shape of `x`, in logits per input unit; signed.
    :raises TypeError: If an argument has the wrong type.
    :raises ValueError: If images or labels do not fit the classifier.

    Example:
    >>> from art_sensreg.interpret import input_gradient
    >>> classifier = PyTorchClassifier(torch.nn.Identity(), torch.nn.CrossEntropyLoss(), (3,), 3)
    >>> input_gradient(classifier, np.ones((2, 3)), [0, 2])
    array([[1., 0., 0.],
           [0., 0., 1.]], dtype=float32)
    """
    images, labels = checked(classifier, x, y)
    with eval_logits(classifier, config.seed) as logits:
        maps = [_gradient(logits, *batch) for batch in batches(classifier, config.batch_size, images, labels)]
    return np.concatenate(maps)


def integrated_gradients(
    classifier: PyTorchClassifier,
    x: np.ndarray,
    y: Any,
    config: ExplanationConfig = DEFAULT,
    multiply_by_inputs: bool = True,
) -> np.ndarray:
    """
    Integrated gradients of the logit of a class: `(x - b) * integral_0^1 of the gradient at b + t (x - b) dt`.

    They add up to the logit at the image minus that at the baseline `b`, up to the error of the numerical integral
    (Captum's Gauss-Legendre quadrature).

    | Paper link: https://arxiv.org/abs/1703.01365 (Sundararajan, Taly, Yan 2017, equation 1)

    :param classifier: ART classifier, with any preprocessing; a random one is averaged as it averages itself.
    :param x: Images `(n, *input_shape)`, floating point, finite.
    :param y: Classes whose logits are explained: indices `(n,)`, or rows `(n, nb_classes)`.
    :param config: Of it `baseline`, `steps`, `batch_size` and `seed`.
    :param multiply_by_inputs: False leaves out the factor `x - b`: the mean gradient on the path, per input unit.
    :return: float32 array of the shape of `x`, in logits (or logits per input unit); signed.
    :raises ImportError: If Captum is missing.
    :raises TypeError: If an argument has the wrong type.
    :raises ValueError: If images, labels or baseline do not fit the classifier.

    Example:
    >>> from art_sensreg.interpret import ExplanationConfig, integrated_gradients
    >>> classifier = PyTorchClassifier(torch.nn.Identity(), torch.nn.CrossEntropyLoss(), (3,), 3)
    >>> integrated_gradients(classifier, np.full((1, 3), 3.0), [1], ExplanationConfig(baseline=1.0)).round(4)
    array([[0., 2., 0.]], dtype=float32)
    """
    check_flag("multiply_by_inputs", multiply_by_inputs)
    images, labels = checked(classifier, x, y)
    starts = full_baseline(config.baseline, images)
    with eval_logits(classifier, config.seed) as logits:
        method = optional_module("captum.attr", BENCH_EXTRA).IntegratedGradients(
            logits, multiply_by_inputs=multiply_by_inputs
        )
        maps = []
        for rows, start, targets in batches(classifier, config.batch_size, images, starts, labels):
            # No fewer rows than images: Captum takes at least one step of all of them at once.
            size = max(config.batch_size, len(rows))
            found = method.attribute(rows, start, targets, n_steps=config.steps, internal_batch_size=size)
            maps.append(_as_array(found))
    return np.concatenate(maps)


BENCH_EXTRA = "'art_sensreg[bench]'"

SALIENCIES: dict[str, Callable[..., np.ndarray]] = {
    "gradient": input_gradient,
    "integrated_gradients": integrated_gradients,
}


@contextmanager
def eval_logits(classifier: PyTorchClassifier, seed: int = 0) -> Iterator[Logits]:
    """
    Yield the function from images in the user's units to logits `(n, C)`, in evaluation mode and seeded.

    Modes, buffers and random states are restored afterwards. The logits always have a gradient with respect to the
    images: zero if the model cuts it.
    """
    model = check_classifier(classifier).model
    check_differentiable(model, "classifier")
    with torch.inference_mode(False), eval_mode(model), preserve_model(model, classifier.device, seed):
        view, looked = differentiable_model(classifier), False

        def logits(x: torch.Tensor) -> torch.Tensor:
            nonlocal looked
            # A copy: the first layer may work in place.
            output: torch.Tensor = view(x.clone())
            if not torch.is_grad_enabled():
                return output
            if x.requires_grad and not looked:
                looked = True
                _warn_if_cut(output, x)
            return output + (0.0 * x).flatten(1).sum(1, keepdim=True)

        yield logits


def _warn_if_cut(output: torch.Tensor, x: torch.Tensor) -> None:
    total = output.sum()
    if total.requires_grad and torch.autograd.grad(total, x, retain_graph=True, allow_unused=True)[0] is not None:
        return
    logger.warning("Autograd finds no path from the images to the logits: their gradient is taken to be zero.")


def checked(classifier: PyTorchClassifier, x: Any, y: Any, clip_values: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Checked images and class indices; without `clip_values` images may lie anywhere, as perturbed ones do."""
    images = check_images(x, check_classifier(classifier).input_shape, clip_values)
    return images, class_indices(check_labels(y, classifier.nb_classes, len(images)))


def full_baseline(baseline: float | np.ndarray, images: np.ndarray) -> np.ndarray:
    """A checked baseline of the shape of the images, float32."""
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


def batches(classifier: PyTorchClassifier, size: int, *arrays: np.ndarray) -> Iterator[tuple[torch.Tensor, ...]]:
    """Batches of arrays of equal length on the classifier's device; floats become float32."""
    for start in range(0, len(arrays[0]), size):
        # Copies: torch warns of arrays that are not writable, and models may work in place.
        parts = [np.array(array[start : start + size]) for array in arrays]
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
