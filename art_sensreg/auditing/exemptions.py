"""When a check does not apply: conditions that are asked before it is made, each with its reason."""

from __future__ import annotations

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier

from art_sensreg.attacks.base.ascent import loss_on_logits, value_and_grad
from art_sensreg.attacks.base.losses import LOSSES
from art_sensreg.auditing.context import Evidence

# Images on which two models are compared.
_COMPARED = 32


def nothing_right(evidence: Evidence) -> str | None:
    """
    No image is classified rightly, so that there is none to attack.

    :param evidence: What is audited.
    :return: The reason, or None.
    """
    return None if len(evidence.correct_rows) else "no image is classified rightly: there is none to attack."


def declared_random(evidence: Evidence) -> str | None:
    """
    The model is random by declaration, so that two of its answers are not expected to be equal.

    :param evidence: What is audited.
    :return: The reason, or None.
    """
    return "the model is random by declaration: see eot_samples_suffice." if evidence.declared_random else None


def deterministic_model(evidence: Evidence) -> str | None:
    """
    The model is deterministic, so that there are no draws to average.

    :param evidence: What is audited.
    :return: The reason, or None.
    """
    return None if evidence.random else "the model is deterministic."


def one_output(evidence: Evidence) -> str | None:
    """
    The model has one output, whose loss is not cross-entropy over the classes.

    :param evidence: What is audited.
    :return: The reason, or None.
    """
    return "the model has one output: its loss is not cross-entropy over classes." if evidence.one_output else None


def one_class(evidence: Evidence) -> str | None:
    """
    All points are of one class, so that a constant answer is always right.

    :param evidence: What is audited.
    :return: The reason, or None.
    """
    return "the points are of one class only." if len(np.unique(evidence.y)) < 2 else None


def twin_is_the_model(evidence: Evidence) -> str | None:
    """
    The twin is the audited model itself, from which nothing can be learned of it.

    :param evidence: What is audited.
    :return: The reason, or None.
    """
    if evidence.twin is None or not same_model(evidence, evidence.twin):
        return None
    return "the twin is the model itself: expected the same model trained without penalties."


def same_model(evidence: Evidence, other: PyTorchClassifier) -> bool:
    """
    Tell whether another classifier is the audited one, or a copy of it.

    Weights alone do not decide: a model whose gradients are masked may share them with its undefended twin. Both have
    to answer alike and to have the same gradients too.

    :param evidence: What is audited.
    :param other: The other classifier.
    :return: Whether it is.
    """
    if other is evidence.classifier:
        return True
    ours, theirs = (list(each.model.state_dict().values()) for each in (evidence.classifier, other))
    if [value.shape for value in ours] != [value.shape for value in theirs]:
        return False
    if not all(torch.equal(a, b.to(a)) for a, b in zip(ours, theirs, strict=True)):
        return False
    if evidence.random:  # its answers differ from themselves
        return type(other) is type(evidence.classifier)
    twin = beside(evidence, other)
    x = evidence.x[:_COMPARED]
    if not np.array_equal(evidence.predict(x), twin.predict(x)):
        return False
    points, labels = evidence.tensors(np.arange(len(x)))
    first, second = (
        value_and_grad(loss_on_logits(each.model, labels, LOSSES["cross_entropy"]), points)[0]
        for each in (evidence, twin)
    )
    return torch.equal(first, second)


def beside(evidence: Evidence, other: PyTorchClassifier) -> Evidence:
    """
    The same points and attacks, on another classifier.

    :param evidence: What is audited.
    :param other: The other classifier.
    :return: Evidence of the other one.
    """
    eps, norm, seed = evidence.eps, evidence.norm, evidence.seed
    return Evidence(other, evidence.x, evidence.y, eps=eps, norm=norm, seed=seed, effort=evidence.effort)
