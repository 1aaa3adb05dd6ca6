"""The conditions under which checks do not apply."""

from __future__ import annotations

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier

from art_sensreg.attacks.base.ascent import loss_on_logits, value_and_grad
from art_sensreg.attacks.base.losses import LOSSES
from art_sensreg.auditing.checks.registry import Exemption
from art_sensreg.auditing.context import AuditContext

# Images on which two models are compared.
_COMPARED = 32


def is_same_model(context: AuditContext, other: PyTorchClassifier) -> bool:
    """
    Whether another classifier is the audited one, or a copy of it.

    Equal weights are not enough: a model with masked gradients may share them with its undefended twin. Outputs and
    gradients must be equal too.
    """
    ours = context.inputs.classifier
    if other is ours:
        return True
    first, second = (list(each.model.state_dict().values()) for each in (ours, other))
    if [value.shape for value in first] != [value.shape for value in second]:
        return False
    if not all(torch.equal(a, b.to(a)) for a, b in zip(first, second, strict=True)):
        return False
    if context.model.is_random:  # its outputs differ from themselves
        return type(other) is type(ours)
    models, x = (context.model, context.of(other).model), context.inputs.x[:_COMPARED]
    own_outputs, other_outputs = (model.predict(x) for model in models)
    if not np.array_equal(own_outputs, other_outputs):
        return False
    points, labels = context.model.tensors(np.arange(len(x)))
    losses = (loss_on_logits(model.module, labels, LOSSES["cross_entropy"]) for model in models)
    own_gradient, other_gradient = (value_and_grad(loss, points)[0] for loss in losses)
    return torch.equal(own_gradient, other_gradient)


def _twin_is_the_model(context: AuditContext) -> bool:
    twin = context.inputs.twin
    return twin is not None and is_same_model(context, twin)


NOTHING_CORRECT = Exemption(
    "no image is classified correctly: there is none to attack.",
    lambda context: not len(context.model.correct_indices),
)
DECLARED_RANDOM = Exemption(
    "the model is random by declaration: see eot_samples_suffice.",
    lambda context: context.model.declared_random,
)
DETERMINISTIC = Exemption("the model is deterministic.", lambda context: not context.model.is_random)
ONE_OUTPUT = Exemption(
    "the model has a single output: its loss is not cross-entropy over classes.",
    lambda context: context.model.one_output,
)
ONE_CLASS = Exemption("all points are of one class.", lambda context: len(np.unique(context.inputs.y)) < 2)
TWIN_IS_THE_MODEL = Exemption(
    "the twin is the model itself: expected the same model trained without penalties.", _twin_is_the_model
)
