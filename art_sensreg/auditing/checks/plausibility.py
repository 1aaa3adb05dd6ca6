"""Plausibility: a result better than any published one is more likely a failed attack than a discovery."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from art_sensreg.auditing.checks.registry import Finding, not_applicable, register_check
from art_sensreg.auditing.context import AuditContext


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published robust accuracy under AutoAttack; the image shape identifies the data set."""

    shape: tuple[int, ...]
    norm: str = "linf"
    eps: float  # as a fraction of the range of the images
    parameters: float = np.inf  # number of weights of the largest model that the figure bounds
    robust: float
    source: str

    def bounds(self, context: AuditContext) -> bool:
        """Whether the audited model cannot be expected to do better: it is no larger, and its eps no smaller."""
        classifier, threat = context.inputs.classifier, context.threat
        weights = sum(parameter.numel() for parameter in classifier.model.parameters())
        return (
            classifier.input_shape == self.shape
            and classifier.nb_classes == 10
            and threat.norm == self.norm
            and threat.eps / threat.width >= self.eps - 1e-9
            and weights <= self.parameters
        )


_MNIST, _CIFAR10 = (1, 28, 28), (3, 32, 32)
_BARTOLDSON = "Bartoldson et al. 2024, arXiv 2404.09349, with more data"
_WU = "TRADES + AWP, ResNet-18 (Wu et al. 2020, arXiv 2004.05884)"
PUBLISHED = (
    Published(
        shape=_MNIST, eps=0.3, robust=0.963, source="best of the MNIST challenge's successors under AutoAttack, 0.3"
    ),
    Published(shape=_CIFAR10, eps=8 / 255, robust=0.516, parameters=15e6, source=_WU),
    Published(shape=_CIFAR10, eps=8 / 255, robust=0.7371, source=_BARTOLDSON),
)


@register_check(
    source="Carlini et al. 2019, arXiv 1902.06705, section 3 (be sceptical of one's own results); RobustBench, "
    "Croce et al. 2021, arXiv 2010.09670",
    meaning="The result is too good to be true: suspect masked gradients first, and let other people attack the model.",
)
def plausible(context: AuditContext) -> Finding:
    """Robust accuracy, against the best published for such images, eps and model size, and what the labels allow."""
    allowed, source = allowed_by_labels(context), "the distances between points of different classes"
    for entry in PUBLISHED:
        if entry.robust < allowed and entry.bounds(context):
            allowed, source = entry.robust, entry.source
    if allowed == 1:
        return not_applicable("neither a published figure nor the distances between the points bound the accuracy.")
    threshold = min(1.0, allowed + context.tolerance(0.0, allowed))
    return Finding(context.attacks.robust_accuracy, threshold, f"bound: {source}.")


def allowed_by_labels(context: AuditContext) -> float:
    """
    The largest robust accuracy that any classifier can have on these points.

    Of two points of different classes whose balls meet, at least one is lost; each point counts in one such pair.
    """
    inputs, n = context.inputs, context.inputs.n
    points, labels = inputs.x.reshape(n, -1).astype(np.float64), inputs.y
    free, lost = np.ones(n, dtype=bool), 0
    for row in range(n):
        if not free[row]:
            continue
        apart = np.abs(points - points[row])
        distance = {"linf": apart.max(1), "l2": np.sqrt((apart**2).sum(1)), "l1": apart.sum(1)}[inputs.norm]
        meets = np.flatnonzero((distance <= 2 * inputs.eps) & (labels != labels[row]) & free)
        if len(meets):
            free[[row, meets[0]]] = False
            lost += 1
    return 1 - lost / n
