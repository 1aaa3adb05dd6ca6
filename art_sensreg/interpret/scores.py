"""All metrics for a model's explanations at once, each with its interval."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from art.estimators.classification import PyTorchClassifier

from art_sensreg.attacks.wrappers.torch_model import check_classifier
from art_sensreg.interpret.areas import deletion_area, insertion_area
from art_sensreg.interpret.config import DEFAULT, ExplanationConfig
from art_sensreg.interpret.metrics import alignment, gini_sparsity, infidelity, max_sensitivity
from art_sensreg.interpret.saliency import SALIENCIES, checked
from art_sensreg.utils.stats import mean_half_width

# Which direction is better, in the order of the scores.
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
    One metric for one kind of saliency map, averaged over the images.

    :param metric: Name of the metric: a key of `METRICS`.
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

    def to_dict(self) -> dict[str, Any]:
        """The score as plain values, for `json.dumps`."""
        return asdict(self)


def explain(
    classifier: PyTorchClassifier, x: np.ndarray, y: Any, config: ExplanationConfig = DEFAULT
) -> list[ExplanationScore]:
    """
    Measure how interpretable a model's explanations are.

    All images count, with the given labels, whether or not the model predicts them: models are compared on the same
    images. Infidelity uses integrated gradients per input unit, like the gradient itself; the other metrics use them
    as shown. For a given seed, the noise is the same for all models and maps.

    | Paper link: https://arxiv.org/abs/2211.08686 (Moshe et al. 2024, who evaluate the same regularisation)

    :param classifier: ART classifier, with any preprocessing; a random one is averaged as it averages itself.
    :param x: Images `(n, *input_shape)`, floating point, finite, within `clip_values`; at least one.
    :param y: Labels: class indices `(n,)`, or rows `(n, nb_classes)`.
    :param config: The settings; a `baseline` that is an array is that of one image.
    :return: Each measure of `METRICS` for both kinds of maps; sparsity and alignment for the gradient only.
    :raises ImportError: If Captum is missing.
    :raises TypeError: If an argument has the wrong type.
    :raises ValueError: If images and labels do not fit the classifier, or gradients are not finite.

    Example:
    >>> import torch
    >>> from art_sensreg.interpret import explain
    >>> classifier = PyTorchClassifier(torch.nn.Identity(), torch.nn.CrossEntropyLoss(), (2,), 2)
    >>> scores = explain(classifier, np.eye(2), [0, 1])
    >>> len(scores), scores[-1]
    (12, ExplanationScore(metric='alignment', saliency='gradient', value=1.0, ci_low=1.0, ci_high=1.0, n=2,
        better='higher'))
    """
    images, labels = checked(classifier, x, y, check_classifier(classifier).clip_values)
    given = (classifier, images, labels)
    all_maps = {name: function(*given, config) for name, function in SALIENCIES.items()}
    scores = []
    for name, maps in all_maps.items():
        function = SALIENCIES[name]
        # Infidelity takes maps per input unit.
        slopes = maps if name == "gradient" else function(*given, config, multiply_by_inputs=False)
        values = {
            "insertion": insertion_area(*given, maps, config),
            "deletion": deletion_area(*given, maps, config),
            "infidelity": infidelity(*given, slopes, config),
            "relative_infidelity": infidelity(*given, slopes, config, relative=True),
            "max_sensitivity": max_sensitivity(*given, partial(function, config=config), config),
        }
        scores += [_score(metric, name, array) for metric, array in values.items()]
    gradients = all_maps["gradient"]
    return [
        *scores,
        _score("gini", "gradient", gini_sparsity(gradients)),
        _score("alignment", "gradient", alignment(images, gradients)),
    ]


def _score(metric: str, saliency: str, values: np.ndarray) -> ExplanationScore:
    mean, n = float(values.mean()), len(values)
    low = high = None
    if n > 1:
        half = mean_half_width(values)
        low, high = mean - half, mean + half
    return ExplanationScore(
        metric=metric, saliency=saliency, value=mean, ci_low=low, ci_high=high, n=n, better=METRICS[metric]
    )
