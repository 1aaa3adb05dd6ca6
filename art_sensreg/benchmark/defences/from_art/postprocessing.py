"""
Postprocessing defences: one of ART's postprocessors changes the probabilities of the undefended model.

They change only the output: gradients do not see them (ART leaves postprocessors out of every gradient), and an
attacker who has the model attacks its logits. What they hinder is querying: model stealing, and attacks that read
scores. Their papers claim no more, and only the number of queries of a score-based attack (Square) can show it; an
adaptive attacker who sees only decisions needs no scores (HopSkipJump).

All expect probabilities. ART applies them to whatever the model returns, and ours return logits: `ReverseSigmoid` clips
these to [0, 1], where the largest tie, and `HighConfidence` sets the negative ones to 0. So they are applied to
:class:`Probabilities`, with the log loss: cross-entropy would take a second softmax.

Defects of ART 1.20.1: `ClassLabels` gives every example the classes of the whole batch; `ReverseSigmoid` clips to
1 - 1e-9, which in float32 is 1, so that a probability of 1 divides by zero and is lowered by the whole half of `beta`
(at its defaults the decision stays); `GaussianNoise` normalises a batch only if every example sums to 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from art.defences.postprocessor import ClassLabels, GaussianNoise, HighConfidence, ReverseSigmoid, Rounded
from art.defences.postprocessor.postprocessor import Postprocessor
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.benchmark.defences.claims import Claim
from art_sensreg.benchmark.defences.spec import Defence, Postprocessing, within
from art_sensreg.benchmark.defences.train_spec import TrainingSpec
from art_sensreg.classifiers import SensRegClassifier


class Probabilities(nn.Module):
    """A model's probabilities; not an `nn.Sequential`, on which some of ART's classes fail."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.model(x), dim=1)


class LogLoss(nn.NLLLoss):
    """Cross-entropy of probabilities."""

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return super().forward(input.clamp(min=1e-30).log(), target)


class RepairedClassLabels(ClassLabels):
    """
    ART's class labels for more than one image: its own gives every image the classes of the whole batch.

    Example:
    >>> from art_sensreg.benchmark.defences.from_art.postprocessing import RepairedClassLabels
    >>> scores = np.array([[0.9, 0.1], [0.2, 0.8]])
    >>> ClassLabels()(scores).tolist(), RepairedClassLabels()(scores).tolist()
    ([[1.0, 1.0], [1.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]])
    """

    def __call__(self, preds: np.ndarray) -> np.ndarray:
        """Replace probabilities `(n, nb_classes)` by the one-hot class."""
        labels = np.zeros_like(preds)
        labels[np.arange(len(preds)), preds.argmax(axis=1)] = 1
        return labels


def postprocessed_classifier(spec: TrainingSpec, model: nn.Module, postprocessor: Postprocessor) -> SensRegClassifier:
    """
    A classifier whose `predict` returns the changed probabilities, which is what black-box attacks query. Its loss is
    computed from probabilities, and its gradients are those of the model without the postprocessor.
    """
    classifier = spec.classifier(Probabilities(model), postprocessing_defences=[postprocessor])
    classifier.set_params(loss=LogLoss())
    return classifier


@dataclass
class Queries:
    """How many examples a classifier's `predict` was asked for, in how many calls."""

    count: int = 0
    calls: int = 0


@contextmanager
def counted_queries(classifier: PyTorchClassifier) -> Iterator[Queries]:
    """
    Count the examples that a classifier's `predict` is asked for inside the `with` block: the cost of a score- or
    decision-based attack.

    Gradients are not counted, nor calls of the model itself. ART's Square asks about three times an iteration, twice of
    them for what it knows already: its counts can be compared with each other, not with those of papers.
    """
    queries, predict, before = Queries(), classifier.predict, classifier.__dict__.get("predict")

    def counted(x: np.ndarray, *args: Any, **kwargs: Any) -> np.ndarray:
        queries.count += len(x)
        queries.calls += 1
        scores: np.ndarray = predict(x, *args, **kwargs)
        return scores

    classifier.predict = counted
    try:
        yield queries
    finally:
        del classifier.predict
        if before is not None:
            classifier.predict = before


_TRAMER = "Tramer et al. 2016, arXiv 1609.02943"
_STEALING = Claim(metric="none", threat="model stealing through the scores")
_SCORES = Claim(metric="attack_queries", threat="model stealing, and with it attacks that read the scores")
_UNMET = "what remains of the scores is enough for Square"

POSTPROCESSING = (
    Defence(
        "art-reverse-sigmoid",
        "ART ReverseSigmoid: small probabilities raised and large ones lowered, so that several inputs share a score",
        "Lee et al. 2018, arXiv 1806.00054",
        {"beta": 1.0, "gamma": 0.1},
        _STEALING,
        ours=False,
        postprocessing=Postprocessing(
            make=lambda options: ReverseSigmoid(beta=options["beta"], gamma=options["gamma"]),
        ),
    ),
    Defence(
        "art-output-noise",
        "ART GaussianNoise on the probabilities: random, and changes the decision where classes are close",
        "Chandrasekaran et al. 2018, arXiv 1811.02054 (as a defence to be averaged away)",
        {"scale": 0.2},
        _SCORES,
        ours=False,
        postprocessing=Postprocessing(make=lambda options: GaussianNoise(scale=options["scale"]), answers=64),
    ),
    Defence(
        "art-high-confidence",
        "ART HighConfidence: probabilities below the cutoff become 0, all of them where none reaches it",
        _TRAMER,
        {"cutoff": 0.25},
        replace(_SCORES, unmet=_UNMET),
        ours=False,
        postprocessing=Postprocessing(make=lambda options: HighConfidence(cutoff=options["cutoff"])),
        check=within(at_most_one=("cutoff",)),
    ),
    Defence(
        "art-rounded",
        "ART Rounded: probabilities to some decimals",
        _TRAMER,
        {"decimals": 3},
        replace(_SCORES, unmet=_UNMET),
        ours=False,
        postprocessing=Postprocessing(make=lambda options: Rounded(decimals=options["decimals"])),
    ),
    Defence(
        "art-class-labels",
        "ART ClassLabels as shipped: every image is given the classes of the whole batch",
        _TRAMER,
        claim=replace(_SCORES, unmet="as shipped it classifies too few images correctly to show it"),
        ours=False,
        postprocessing=Postprocessing(make=lambda options: ClassLabels()),
    ),
    Defence(
        "art-class-labels-fixed",
        "ART ClassLabels, fixed: only the decision",
        _TRAMER,
        claim=_SCORES,
        ours=False,
        repaired="each image is given its own class",
        postprocessing=Postprocessing(make=lambda options: RepairedClassLabels()),
    ),
)
