"""
Postprocessing defences as rows: the model of `none` whose probabilities one of ART's postprocessors changes.

They stand behind the output: gradients do not see them (ART leaves postprocessors out of every gradient), and who holds
the model attacks the logits underneath. What they hinder is asking: model stealing, and attacks that read scores. Their
papers claim no more, and only the number of queries of a score-based attack (Square) can show it; an adaptive attacker
who gets nothing but decisions needs no scores (HopSkipJump).

All take probabilities. ART applies them to whatever the model returns, and ours return logits: `ReverseSigmoid` clips
these to [0, 1], where the largest tie, and `HighConfidence` sets the negative ones to 0. So they stand behind
:class:`Probabilities`; its own loss is `nn.NLLLoss` of the logarithm, and cross-entropy would take a second softmax.

Defects of ART 1.20.1: `ClassLabels` marks in every row the classes of the whole batch; `ReverseSigmoid` clips to
1 - 1e-9, which in float32 is 1, so that a probability of 1 divides by zero and is lowered by the whole half of `beta`
(at its defaults the decision stays); `GaussianNoise` normalises a batch only if every row of it sums to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import numpy as np
import torch
from art.defences.postprocessor import ClassLabels, GaussianNoise, HighConfidence, ReverseSigmoid, Rounded
from art.defences.postprocessor.postprocessor import Postprocessor
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.benchmark.defences.claims import Claim
from art_sensreg.benchmark.defences.train_spec import TrainingSpec
from art_sensreg.classifiers import SensRegClassifier

Options = dict[str, Any]


@dataclass(frozen=True)
class NamedPostprocessing:
    """
    A row with the words that `--list` shows and the options of `--set`.

    :param name: Name on the command line.
    :param summary: One line.
    :param paper: Where it comes from.
    :param make: Function of the options that makes the postprocessor.
    :param claim: What its paper claims.
    :param options: The options and their defaults.
    :param answers: Answers whose mean is scored; more than one where two equal queries are answered differently.
    :param repaired: What a `...-fixed` row repairs.
    """

    name: str
    summary: str
    paper: str
    make: Callable[[Options], Postprocessor]
    claim: Claim
    options: Options = field(default_factory=dict)
    answers: int = 1
    repaired: str = ""


class Probabilities(nn.Module):
    """
    A model's probabilities; not an `nn.Sequential`, on which some of ART's classes fail.

    :param model: Module from images to logits.

    Example:
    >>> from art_sensreg.benchmark.defences.from_art.postprocessing import Probabilities
    >>> Probabilities(nn.Identity())(torch.zeros(1, 2))
    tensor([[0.5000, 0.5000]])
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.model(x), dim=1)


class ClassLabelsByRow(ClassLabels):
    """
    ART's class labels for more than one image: its own marks, in every row, the classes of all rows of the batch.

    Example:
    >>> from art_sensreg.benchmark.defences.from_art.postprocessing import ClassLabelsByRow
    >>> scores = np.array([[0.9, 0.1], [0.2, 0.8]])
    >>> ClassLabels()(scores).tolist(), ClassLabelsByRow()(scores).tolist()
    ([[1.0, 1.0], [1.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]])
    """

    def __call__(self, preds: np.ndarray) -> np.ndarray:
        """
        Replace probabilities by the class.

        :param preds: Probabilities `(n, nb_classes)`.
        :return: One-hot rows of the same shape.
        """
        labels = np.zeros_like(preds)
        labels[np.arange(len(preds)), preds.argmax(axis=1)] = 1
        return labels


def postprocessed_classifier(spec: TrainingSpec, model: nn.Module, postprocessor: Postprocessor) -> SensRegClassifier:
    """
    What attacks ask of a postprocessed model: its scores. Gradients are those of the model without it.

    :param spec: The training spec.
    :param model: The trained model.
    :param postprocessor: What changes its probabilities.
    :return: Classifier whose `predict` returns changed probabilities, and whose loss is that of probabilities.

    Example:
    >>> from art_sensreg.benchmark.defences.from_art.postprocessing import ClassLabelsByRow, postprocessed_classifier
    >>> from art_sensreg.datasets import load_dataset
    >>> spec = TrainingSpec(
    ...     dataset=load_dataset("digits"), model="mlp", activation="relu", norm_layer="none", seed=0, epochs=1,
    ...     batch_size=64, learning_rate=0.001, norm="linf", eps=0.1, device="cpu",
    ... )
    >>> classifier = postprocessed_classifier(spec, spec.new_model(), ClassLabelsByRow())
    >>> classifier.predict(spec.dataset.x_test[:3]).sum(axis=1).tolist()
    [1.0, 1.0, 1.0]
    """
    classifier = spec.classifier(Probabilities(model), postprocessing_defences=[postprocessor])
    classifier.set_params(loss=LogLoss())
    return classifier


class LogLoss(nn.NLLLoss):
    """
    Cross-entropy of probabilities.

    Example:
    >>> from art_sensreg.benchmark.defences.from_art.postprocessing import LogLoss
    >>> LogLoss()(torch.tensor([[1.0, 0.0]]), torch.tensor([0])).item() < 1e-6
    True
    """

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return super().forward(input.clamp(min=1e-30).log(), target)


class CountedQueries:
    """
    Counts the rows that a classifier's `predict` is asked for: what a score- or decision-based attack costs.

    Not counted are gradients, and what attacks ask of the model itself. ART's Square asks about three times an
    iteration, twice of them for what it knows: its counts compare with each other, not with those of papers.

    :param classifier: The classifier; its `predict` is replaced while the `with` block runs.

    Example:
    >>> from art_sensreg.benchmark.defences.from_art.postprocessing import CountedQueries
    >>> classifier = PyTorchClassifier(nn.Linear(4, 2), nn.CrossEntropyLoss(), (4,), 2)
    >>> with CountedQueries(classifier) as queries:
    ...     _ = classifier.predict(np.zeros((3, 4), dtype=np.float32), batch_size=2)
    >>> queries.count, queries.calls
    (3, 1)
    """

    def __init__(self, classifier: PyTorchClassifier) -> None:
        self.count = 0
        self.calls = 0
        self._classifier = classifier

    def __enter__(self) -> CountedQueries:
        predict = self._classifier.predict

        def counted(x: np.ndarray, *args: Any, **kwargs: Any) -> np.ndarray:
            self.count += len(x)
            self.calls += 1
            scores: np.ndarray = predict(x, *args, **kwargs)
            return scores

        self._before = self._classifier.__dict__.get("predict")
        self._classifier.predict = counted
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is None:
            del self._classifier.predict
        else:
            self._classifier.predict = self._before


_TRAMER = "Tramer et al. 2016, arXiv 1609.02943"
_STEALING = Claim(metric="none", threat="model stealing through the scores")
_SCORES = Claim(metric="attack_queries", threat="model stealing, and with it attacks that read the scores")

POSTPROCESSING_ROWS = (
    NamedPostprocessing(
        "art-reverse-sigmoid",
        "ART ReverseSigmoid: small probabilities raised and large ones lowered, so that several inputs share a score",
        "Lee et al. 2018, arXiv 1806.00054",
        lambda options: ReverseSigmoid(beta=options["beta"], gamma=options["gamma"]),
        _STEALING,
        {"beta": 1.0, "gamma": 0.1},
    ),
    NamedPostprocessing(
        "art-output-noise",
        "ART GaussianNoise on the probabilities: random, and changes the decision where classes are close",
        "Chandrasekaran et al. 2018, arXiv 1811.02054 (as a defence to be averaged away)",
        lambda options: GaussianNoise(scale=options["scale"]),
        _SCORES,
        {"scale": 0.2},
        answers=64,
    ),
    NamedPostprocessing(
        "art-high-confidence",
        "ART HighConfidence: probabilities below the cutoff become 0, all of them where none reaches it",
        _TRAMER,
        lambda options: HighConfidence(cutoff=options["cutoff"]),
        replace(_SCORES, unmet="what is left of the scores is enough for Square"),
        {"cutoff": 0.25},
    ),
    NamedPostprocessing(
        "art-rounded",
        "ART Rounded: probabilities to some decimals",
        _TRAMER,
        lambda options: Rounded(decimals=options["decimals"]),
        replace(_SCORES, unmet="what is left of the scores is enough for Square"),
        {"decimals": 3},
    ),
    NamedPostprocessing(
        "art-class-labels",
        "ART ClassLabels as shipped: each row marks the classes of the whole batch",
        _TRAMER,
        lambda options: ClassLabels(),
        replace(_SCORES, unmet="as shipped it is right on too few images to show it"),
    ),
    NamedPostprocessing(
        "art-class-labels-fixed",
        "ART ClassLabels, repaired: the decision alone",
        _TRAMER,
        lambda options: ClassLabelsByRow(),
        _SCORES,
        repaired="each row marks its own class",
    ),
)
