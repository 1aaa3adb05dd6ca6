"""Metrics for saliency maps: one value per image."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier

from art_sensreg.interpret.config import DEFAULT, ExplanationConfig
from art_sensreg.interpret.saliency import BENCH_EXTRA, Saliency, batches, checked, eval_logits, input_gradient
from art_sensreg.utils import as_numbers, check_flag
from art_sensreg.utils.checks import optional_module
from art_sensreg.utils.model_rng import preserve_rng_state


def infidelity(
    classifier: PyTorchClassifier,
    x: np.ndarray,
    y: Any,
    saliency: np.ndarray,
    config: ExplanationConfig = DEFAULT,
    relative: bool = False,
) -> np.ndarray:
    """
    Mean squared error of a map as a linear model: `E (I . saliency - (z(x) - z(x - I)))^2`, `I` Gaussian noise.

    The map must be a slope, in logits per input unit: a gradient, or integrated gradients with
    `multiply_by_inputs=False`. The value grows with the square of the logits, so that a model with small logits has a
    small one; `relative` divides by `E (z(x) - z(x - I))^2` of the same noise, the infidelity of a map of zeros.

    | Paper link: https://arxiv.org/abs/1901.09392 (Yeh et al. 2019; Captum's `infidelity`)

    :param classifier: ART classifier.
    :param x: Images `(n, *input_shape)`, floating point, finite.
    :param y: Classes: indices `(n,)`, or rows `(n, nb_classes)`.
    :param saliency: Maps of the shape of `x`, finite, in logits per input unit.
    :param config: Of it `sigma`, `samples`, `batch_size` and `seed`.
    :param relative: Whether it is divided by the infidelity of a map of zeros; 1 where that is 0 and this is not.
    :return: `(n,)`, float64, in squared logits; or a share. Less is better.
    :raises ImportError: If Captum is missing.
    :raises TypeError: If an argument has the wrong type.
    :raises ValueError: If arrays do not fit the classifier.

    Example:
    >>> from art_sensreg.interpret import infidelity
    >>> classifier = PyTorchClassifier(torch.nn.Identity(), torch.nn.CrossEntropyLoss(), (2,), 2)
    >>> infidelity(classifier, np.ones((1, 2)), [0], np.array([[1.0, 0.0]])).round(6)
    array([0.])
    >>> infidelity(classifier, np.ones((1, 2)), [0], np.array([[0.0, 0.0]]), relative=True)
    array([1.])
    """
    check_flag("relative", relative)
    images, labels = checked(classifier, x, y)
    maps = check_map(saliency, images)
    errors = _squared_errors(classifier, images, labels, maps, config)
    if not relative:
        return errors
    moved = _squared_errors(classifier, images, labels, np.zeros_like(maps), config)
    return np.where(moved > 0, errors / np.where(moved > 0, moved, 1.0), errors > 0)


def max_sensitivity(
    classifier: PyTorchClassifier,
    x: np.ndarray,
    y: Any,
    saliency: Saliency = input_gradient,
    config: ExplanationConfig = DEFAULT,
) -> np.ndarray:
    """
    Largest change of a map near an image: `max ||map(x + r) - map(x)||_2 / ||map(x)||_2` over some `r` in a cube.

    As in Captum, the change is divided by the norm of the map (by 1 if that is 0), which the paper does not do:
    otherwise a model with small logits would win. It grows with the number of samples; compare equal numbers.

    | Paper link: https://arxiv.org/abs/1901.09392 (Yeh et al. 2019; Captum's `sensitivity_max`)

    :param classifier: ART classifier.
    :param x: Images `(n, *input_shape)`, floating point, finite.
    :param y: Classes: indices `(n,)`, or rows `(n, nb_classes)`.
    :param saliency: Function of the classifier, images and classes that returns the maps.
    :param config: Of it `radius`, `samples`, `batch_size`, and the `seed` of `r`, which is uniform in the cube;
        `saliency` seeds the draws of a random model.
    :return: `(n,)`, float64. Less is better.
    :raises ImportError: If Captum is missing.
    :raises TypeError: If an argument has the wrong type.
    :raises ValueError: If arrays do not fit the classifier.

    Example:
    >>> from art_sensreg.interpret import max_sensitivity
    >>> classifier = PyTorchClassifier(torch.nn.Identity(), torch.nn.CrossEntropyLoss(), (2,), 2)
    >>> max_sensitivity(classifier, np.ones((1, 2)), [0])
    array([0.])
    """
    images, labels = checked(classifier, x, y)
    sensitivity_max = optional_module("captum.metrics", BENCH_EXTRA).sensitivity_max
    generator = np.random.default_rng(config.seed)

    def maps(rows: Any, target: torch.Tensor) -> Any:
        # Captum passes the images themselves as a tuple and expects their maps as one; a single label is not repeated.
        array = (rows[0] if isinstance(rows, tuple) else rows).numpy()
        found = saliency(classifier, array, target.expand(len(array)).numpy())
        result = torch.from_numpy(check_map(found, array))
        return (result,) if isinstance(rows, tuple) else result

    def perturbed(rows: torch.Tensor) -> torch.Tensor:
        uniform = torch.from_numpy(generator.random(tuple(rows.shape), dtype=np.float32))
        return rows + (config.radius * (2 * uniform - 1))

    values = []
    size = max(1, config.batch_size // config.samples)
    for start in range(0, len(images), size):
        rows, target = (torch.from_numpy(np.array(array[start : start + size])) for array in (images, labels))
        values.append(sensitivity_max(maps, rows.float(), perturbed, n_perturb_samples=config.samples, target=target))
    sensitivities: np.ndarray = torch.cat(values).double().numpy()
    return sensitivities


def gini_sparsity(saliency: np.ndarray) -> np.ndarray:
    """
    Gini index of the absolute values of a map: 0 where all are equal, `1 - 1/d` where all but one of d are 0.

    | Paper link: https://arxiv.org/abs/0811.4706 (Hurley and Rickard 2009), https://arxiv.org/abs/1810.06583
        (Chalasani et al. 2020: as a measure of explanations)

    :param saliency: Maps `(n, ...)`, finite.
    :return: `(n,)`, float64; 0 for a map of zeros. More is sparser.
    :raises ValueError: If the maps are not finite, or have no entries.

    Example:
    >>> from art_sensreg.interpret import gini_sparsity
    >>> gini_sparsity(np.array([[1.0, -1.0, 1.0, 1.0], [0.0, 0.0, 5.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
    array([0.  , 0.75, 0.  ])
    """
    sizes = np.sort(np.abs(_flat("saliency", saliency)), axis=1)
    count = sizes.shape[1]
    totals = sizes.sum(axis=1)
    shares = sizes / np.where(totals > 0, totals, 1.0)[:, None]
    index = 1 - 2 * shares @ ((count - np.arange(1, count + 1) + 0.5) / count)
    # Rounding may take equal values to either side of 0.
    return np.where(totals > 0, np.maximum(index, 0.0), 0.0)


def alignment(x: np.ndarray, gradient: np.ndarray, normalise: bool = True) -> np.ndarray:
    """
    How much the gradient of the logit resembles the image: `|cos(x, gradient)|`.

    The paper's `alpha(x)` is `|<x, gradient>| / ||gradient||`, in input units (`normalise=False`); the cosine, which is
    `alpha(x) / ||x||`, does not depend on the scale of the images. Either depends on where the images' zero is.

    | Paper link: https://arxiv.org/abs/1905.04172 (Etmann et al. 2019)

    :param x: Images `(n, ...)`, finite.
    :param gradient: Gradients of the shape of `x`, finite.
    :param normalise: Whether the result is the cosine, from 0 to 1.
    :return: `(n,)`, float64; 0 where the gradient or the image is 0. More is better.
    :raises ValueError: If the arrays are not finite, or differ in shape.

    Example:
    >>> from art_sensreg.interpret import alignment
    >>> x = np.array([[3.0, 4.0]])
    >>> alignment(x, -2 * x), alignment(x, x, normalise=False), alignment(x, np.array([[4.0, -3.0]]))
    (array([1.]), array([5.]), array([0.]))
    """
    check_flag("normalise", normalise)
    images, slopes = _flat("x", x), _flat("gradient", gradient)
    if np.shape(x) != np.shape(gradient):
        raise ValueError(f"`gradient` has shape {np.shape(gradient)}; expected {np.shape(x)}, the shape of `x`.")
    norms = np.linalg.norm(slopes, axis=1) * (np.linalg.norm(images, axis=1) if normalise else 1.0)
    aligned: np.ndarray = np.abs((images * slopes).sum(axis=1)) / np.where(norms > 0, norms, 1.0)
    return aligned


def check_map(saliency: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Refuse maps that are of another shape than their images, or not finite; return them as float32."""
    maps = as_numbers(saliency, "saliency")
    if maps.shape != images.shape:
        raise ValueError(f"`saliency` has shape {maps.shape}; expected {images.shape}, the shape of `x`.")
    return _finite("saliency", maps).astype(np.float32, copy=False)


def _squared_errors(
    classifier: PyTorchClassifier,
    images: np.ndarray,
    labels: np.ndarray,
    maps: np.ndarray,
    config: ExplanationConfig,
) -> np.ndarray:
    captum_infidelity = optional_module("captum.metrics", BENCH_EXTRA).infidelity
    samples = config.samples
    with eval_logits(classifier, config.seed) as drawn:
        generator = np.random.default_rng(config.seed)

        def logits(rows: torch.Tensor) -> torch.Tensor:
            # The same draws of a random model with and without noise: otherwise their difference is measured. The
            # samples of each image follow one another: one sample of every image at a time goes through the model.
            outputs = []
            for number in range(len(rows) // count):
                with preserve_rng_state(classifier.device, config.seed, classifier.model):
                    outputs.append(drawn(rows[number :: len(rows) // count]))
            return torch.stack(outputs, dim=1).flatten(0, 1)

        def perturbed(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            # Image by image, all samples of one after the other: the noise does not depend on the size of a batch.
            noise = torch.from_numpy(generator.standard_normal(tuple(rows.shape), dtype=np.float32))
            noise = config.sigma * noise.to(rows)
            return noise, rows - noise

        errors = []
        for rows, slopes, targets in batches(classifier, max(1, config.batch_size // samples), images, maps, labels):
            count = len(rows)
            values = captum_infidelity(logits, perturbed, rows, slopes, target=targets, n_perturb_samples=samples)
            errors.append(values.double().cpu().numpy())
    return np.concatenate(errors)


def _flat(name: str, array: np.ndarray) -> np.ndarray:
    values = as_numbers(array, name)
    if values.ndim < 2 or values[:1].size == 0:
        raise ValueError(f"`{name}` has shape {values.shape}; expected (n, ...) with n at least 1.")
    return _finite(name, values).reshape(len(values), -1).astype(np.float64)


def _finite(name: str, array: np.ndarray) -> np.ndarray:
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array).reshape(len(array), -1).all(axis=1)).sum())
        raise ValueError(f"`{name}` has NaN or infinite values in {bad} of {len(array)} images; expected finite ones.")
    return array
