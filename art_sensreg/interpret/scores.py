"""All measures of a model's explanations at once, each with its interval."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from art.estimators.classification import PyTorchClassifier

from art_sensreg.attacks.wrappers.torch_model import check_classifier
from art_sensreg.interpret.areas import deletion_area, insertion_area
from art_sensreg.interpret.metrics import alignment, gini_sparsity, infidelity, max_sensitivity
from art_sensreg.interpret.saliency import Saliency, checked, input_gradient, integrated_gradients
from art_sensreg.utils.stats import mean_half_width

# Which direction is better, in the order of the rows.
METRICS = {
    "insertion": "higher",
    "deletion": "lower",
    "infidelity": "lower",
    "relative_infidelity": "lower",
    "max_sensitivity": "lower",
    "gini": "higher",
    "alignment": "higher",
}


@dataclass(frozen=True, kw_only=True)
class ExplanationScore:
    """
    One measure of one kind of saliency map, mean over the images.

    :param metric: Name of the measure: a key of `METRICS`.
    :param saliency: Name of the maps: a key of `SALIENCIES`.
    :param value: Mean over the images.
    :param ci_low: Lower end of the 95 % normal interval of that mean; None for one image, which has no spread.
    :param ci_high: Upper end.
    :param n: Number of images.
    :param better: `higher` or `lower`.
    """

    metric: str
    saliency: str
    value: float
    ci_low: float | None
    ci_high: float | None
    n: int
    better: str


def explain(
    classifier: PyTorchClassifier,
    x: np.ndarray,
    y: Any,
    *,
    seed: int = 0,
    steps: int = 32,
    sigma: float = 0.1,
    radius: float = 0.02,
    samples: int = 10,
    baseline: float | np.ndarray = 0.0,
    batch_size: int = 128,
) -> list[ExplanationScore]:
    """
    Measure how readable a model's explanations are.

    All images count, with the labels given, whether the model is right about them or not: models are compared on the
    same images. Infidelity takes integrated gradients per input unit, as it takes the gradient; the other measures take
    them as they are shown. Noise is the same for all models and maps of a seed.

    | Paper link: https://arxiv.org/abs/2211.08686 (Moshe et al. 2024, who judge the same regularisation so)

    :param classifier: ART classifier, with any preprocessing; a random one is averaged as it averages itself.
    :param x: Images `(n, *input_shape)`, floating point, finite, within `clip_values`; at least one.
    :param y: Labels: class indices `(n,)`, or rows `(n, nb_classes)`.
    :param seed: Seed of the noise, and of the draws of a random model.
    :param steps: Steps of insertion and deletion, and gradients of an integral.
    :param sigma: Standard deviation of infidelity's noise, in input units.
    :param radius: Radius of max-sensitivity, in input units.
    :param samples: Draws for each image, of infidelity and of max-sensitivity.
    :param baseline: Missing pixels and the start of integrals, in input units: a number, or an array for one image.
    :param batch_size: Rows of a pass.
    :return: The rows: each measure of `METRICS`, for both kinds of maps; sparsity and alignment for the gradient only.
    :raises ImportError: If Captum is missing.
    :raises TypeError: If an argument is of a wrong type.
    :raises ValueError: If images and labels do not fit the classifier, an argument is out of range, or gradients are
        not finite.

    Example:
    >>> import torch
    >>> from art_sensreg.interpret import explain
    >>> classifier = PyTorchClassifier(torch.nn.Identity(), torch.nn.CrossEntropyLoss(), (2,), 2)
    >>> rows = explain(classifier, np.eye(2), [0, 1])
    >>> len(rows), rows[-1]
    (12, ExplanationScore(metric='alignment', saliency='gradient', value=1.0, ci_low=1.0, ci_high=1.0, n=2,
        better='higher'))
    """
    images, labels = checked(classifier, x, y, check_classifier(classifier).clip_values)
    shared: dict[str, Any] = {"batch_size": batch_size, "seed": seed}
    integral = partial(integrated_gradients, baseline=baseline, steps=steps, batch_size=batch_size, seed=seed)
    gradients = input_gradient(classifier, images, labels, **shared)
    kinds: dict[str, tuple[Saliency, np.ndarray, np.ndarray]] = {
        # The function, its maps, and those maps per input unit.
        "gradient": (partial(input_gradient, batch_size=batch_size, seed=seed), gradients, gradients),
        "integrated_gradients": (
            integral,
            integral(classifier, images, labels),
            integral(classifier, images, labels, multiply_by_inputs=False),
        ),
    }
    rows = []
    for name, (function, maps, slopes) in kinds.items():
        given = (classifier, images, labels)
        noise = {"sigma": sigma, "samples": samples, **shared}
        area = {"baseline": baseline, "steps": steps, **shared}
        values = {
            "insertion": insertion_area(*given, maps, **area),
            "deletion": deletion_area(*given, maps, **area),
            "infidelity": infidelity(*given, slopes, **noise),
            "relative_infidelity": infidelity(*given, slopes, relative=True, **noise),
            "max_sensitivity": max_sensitivity(*given, function, radius=radius, samples=samples, **shared),
        }
        rows += [_score(metric, name, array) for metric, array in values.items()]
    return [
        *rows,
        _score("gini", "gradient", gini_sparsity(gradients)),
        _score("alignment", "gradient", alignment(images, gradients)),
    ]


def as_json(scores: Iterable[ExplanationScore]) -> list[dict[str, Any]]:
    """
    Scores as plain dictionaries, for `json.dumps`.

    :param scores: The scores.
    :return: One dictionary for each.

    Example:
    >>> from art_sensreg.interpret import ExplanationScore, as_json
    >>> values = {"value": 0.5, "ci_low": None, "ci_high": None, "n": 1, "better": "higher"}
    >>> as_json([ExplanationScore(metric="gini", saliency="gradient", **values)])[0]["value"]
    0.5
    """
    return [asdict(score) for score in scores]


def _score(metric: str, saliency: str, values: np.ndarray) -> ExplanationScore:
    mean, n = float(values.mean()), len(values)
    low = high = None
    if n > 1:
        half = mean_half_width(values)
        low, high = mean - half, mean + half
    return ExplanationScore(
        metric=metric, saliency=saliency, value=mean, ci_low=low, ci_high=high, n=n, better=METRICS[metric]
    )
