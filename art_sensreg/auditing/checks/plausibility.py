"""Plausibility: a result better than anybody's is more likely a failed attack than a discovery."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from art_sensreg.auditing.context import Evidence
from art_sensreg.auditing.registry import Finding, check, not_applicable


@dataclass(frozen=True)
class Published:
    """
    A published robust accuracy under AutoAttack.

    :param shape: Shape of an image, by which the data set is recognised.
    :param norm: Norm.
    :param eps: Size, in shares of the range of images.
    :param parameters: Weights of the largest model that the figure speaks of.
    :param robust: Robust accuracy.
    :param source: Where it is from.
    """

    shape: tuple[int, ...]
    norm: str
    eps: float
    parameters: float
    robust: float
    source: str


# The best figures without more data. A smaller model cannot be expected to do better, nor a larger eps.
PUBLISHED = (
    Published(
        (1, 28, 28), "linf", 0.3, np.inf, 0.963, "best of the MNIST challenge's successors under AutoAttack, 0.3"
    ),
    Published((3, 32, 32), "linf", 8 / 255, 15e6, 0.516, "TRADES + AWP, ResNet-18 (Wu et al. 2020, arXiv 2004.05884)"),
    Published((3, 32, 32), "linf", 8 / 255, np.inf, 0.7371, "Bartoldson et al. 2024, arXiv 2404.09349, with more data"),
)


@check(
    source="Carlini et al. 2019, arXiv 1902.06705, section 3 (be sceptical of one's own results); RobustBench, "
    "Croce et al. 2021, arXiv 2010.09670",
    meaning="Too good to be true: suspect masked gradients first, and show the model to other people's attacks.",
)
def plausible(evidence: Evidence) -> Finding:
    """Robust accuracy, against the best published for such images, eps and size of model, and what labels allow."""
    weights = sum(parameter.numel() for parameter in evidence.classifier.model.parameters())
    allowed, source = _labels_allow(evidence), "the points' own distances"
    for entry in PUBLISHED:
        applies = (
            evidence.classifier.input_shape == entry.shape
            and evidence.classifier.nb_classes == 10
            and evidence.norm == entry.norm
            and evidence.eps / evidence.width >= entry.eps - 1e-9
            and weights <= entry.parameters
        )
        if applies and entry.robust < allowed:
            allowed, source = entry.robust, entry.source
    if allowed == 1:
        return not_applicable("no published figure bounds such images and sizes, nor do the points' own distances.")
    threshold = min(1.0, allowed + evidence.widened(0.0, allowed))
    return Finding(evidence.robust_accuracy, threshold, f"bound: {source}.")


def _labels_allow(evidence: Evidence) -> float:
    """
    The share of the points that any classifier can hold: of two points of other classes whose balls meet it holds one.

    Each such pair, counted once a point, costs a point.
    """
    points, labels = evidence.x.reshape(evidence.n, -1).astype(np.float64), evidence.y
    free, lost = np.ones(evidence.n, dtype=bool), 0
    for row in range(evidence.n):
        if not free[row]:
            continue
        apart = np.abs(points - points[row])
        distance = {"linf": apart.max(1), "l2": np.sqrt((apart**2).sum(1)), "l1": apart.sum(1)}[evidence.norm]
        meets = np.flatnonzero((distance <= 2 * evidence.eps) & (labels != labels[row]) & free)
        if len(meets):
            free[[row, meets[0]]] = False
            lost += 1
    return 1 - lost / evidence.n
