"""Adaptive checks: attacks that know about this defence, other models, or randomness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from art.attacks.attack import EvasionAttack
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.attacks import FarStartsAttack, HiddenDistanceAttack, ScaledLogitsAttack, TransferAttack
from art_sensreg.attacks.hidden_distance import TappedModel
from art_sensreg.attacks.wrappers.eot import EOT
from art_sensreg.auditing.checks.exemptions import DETERMINISTIC, NOTHING_CORRECT, TWIN_IS_THE_MODEL, is_same_model
from art_sensreg.auditing.checks.registry import Finding, not_applicable, register_check, skip
from art_sensreg.auditing.context import AuditContext, PgdSettings
from art_sensreg.classifiers import SensRegClassifier

_CARLINI = "Carlini et al. 2019, arXiv 1902.06705, "
_TRAMER = "Tramer et al. 2020, arXiv 2002.08347, "
_TRANSFER = _CARLINI + "section 5.3 (transfer); Pintor et al. 2022, arXiv 2106.09947, indicator I5 (transfer failure)"


@register_check(
    source=_TRANSFER,
    meaning="Adversarial images of the undefended twin succeed where the attack on the model itself did not: its "
    "gradients are masked.",
    exemptions=(NOTHING_CORRECT, TWIN_IS_THE_MODEL),
)
def transfer_from_twin(context: AuditContext) -> Finding:
    """Fraction of all images on which adversarial images made for the twin succeed."""
    if context.inputs.twin is None:
        return skip("no `twin` was given: the same model trained without penalties.")
    return _transfer(context, [context.inputs.twin])


@register_check(
    source=_TRANSFER,
    meaning="Adversarial images of other models succeed where the attack on the model itself did not: its gradients "
    "are masked.",
    exemptions=(NOTHING_CORRECT,),
)
def transfer_from_surrogates(context: AuditContext) -> Finding:
    """Fraction of all images on which adversarial images made for each surrogate, or all of them together, succeed."""
    surrogates = context.inputs.surrogates or _trained_surrogate(context)
    if not surrogates:
        return skip("no `surrogates` were given (an adversarially trained model, say), nor `train_data` to train one.")
    others = [surrogate for surrogate in surrogates if not is_same_model(context, surrogate)]
    if not others:
        return not_applicable("the surrogates are the model itself: expected other models.")
    return _transfer(context, others)


@register_check(
    source="Carlini and Wagner 2016, arXiv 1607.04311; Croce and Hein 2020, arXiv 2003.01690, section 4.1",
    meaning="Cross-entropy on rescaled logits or in float64 finds more than on the logits as they are, so its gradient "
    "vanishes at their scale: attack a loss that does not depend on the scale (logits ratio).",
    exemptions=(NOTHING_CORRECT,),
)
def logit_scale_matters_little(context: AuditContext) -> Finding:
    """Fraction of all images on which PGD succeeds with logits times 1, 10 or 100, of unit scale, or in float64."""
    return _gained(context, ScaledLogitsAttack(context.inputs.classifier, **_settings(context)))


@register_check(
    source=_TRAMER + "section 2 (attack the defence's own quantity); arXiv 2009.11349 (what SR suppresses)",
    meaning="An attack on the hidden distances that the penalty suppresses finds more than one on the output: include "
    "it in the evaluation.",
    exemptions=(NOTHING_CORRECT,),
)
def hidden_distances_gain_little(context: AuditContext) -> Finding:
    """Fraction of all images on which PGD on cross-entropy plus hidden distances succeeds, untargeted or targeted."""
    model, classifier = context.model, context.inputs.classifier
    layers = next((penalty.layers for penalty in context.inputs.penalties if hasattr(penalty, "layers")), "hidden")
    images = model.tensors(np.arange(min(2, context.inputs.n)))[0]
    if TappedModel.plan(model.module, classifier.model, layers, images).kept is None:
        return not_applicable("the model has no hidden activations.")
    attacks = [
        HiddenDistanceAttack(classifier, direction=direction, layers=layers, **_settings(context))
        for direction in ("away", "towards")
    ]
    return _gained(context, *attacks)


@register_check(
    source=_TRAMER + "section 3 (start elsewhere); Croce and Hein 2020, arXiv 2003.01690",
    meaning="Starts on the border or towards other classes find more, so the loss is flat around the images: use many "
    "far starts.",
    exemptions=(NOTHING_CORRECT,),
)
def far_starts_gain_little(context: AuditContext) -> Finding:
    """Fraction of all images on which attacks from the border of the ball or towards other classes' images succeed."""
    restarts = context.inputs.effort.restarts
    return _gained(context, FarStartsAttack(context.inputs.classifier, nb_restarts=restarts, **_settings(context)))


@register_check(
    source="Athalye et al. 2018, arXiv 1802.00420, section 4.2 (EOT)",
    meaning="Averaging the gradient over more samples finds more, so the attack's estimate is too noisy: raise the "
    "number of samples until it changes nothing.",
    exemptions=(DETERMINISTIC, NOTHING_CORRECT),
)
def eot_samples_suffice(context: AuditContext) -> Finding:
    """Accuracy under an attack with 4 samples per step minus that with 16 (random models only)."""
    whole = context.inputs.classifier.model
    inner, indices = whole.model if context.model.declared_random else whole, context.model.correct_indices[:128]
    accuracy = []
    for samples in (1, 4, 16):
        module = EOT(inner, samples=samples).eval()
        found = context.attacks.pgd(indices, PgdSettings(("eot",), max_iter=20), module)
        accuracy.append(1 - float(np.mean([context.attacks.succeeds(found, indices) for _ in range(5)])))
    text = ", ".join(f"{value:.3f}" for value in accuracy)
    return Finding(accuracy[1] - accuracy[2], context.tolerance(0.01, accuracy[1]), f"at 1, 4, 16 samples: {text}.")


@register_check(
    source="Athalye et al. 2018, arXiv 1802.00420, section 4.2; Croce et al. 2022, arXiv 2202.13711",
    meaning="Scoring the same adversarial images again gives another accuracy, so a single success may be luck: score "
    "several times with fresh samples (RandomizedClassifier.score).",
    exemptions=(DETERMINISTIC, NOTHING_CORRECT),
)
def repeated_scoring_agrees(context: AuditContext) -> Finding:
    """Standard deviation of the accuracy over ten scorings of the same adversarial images."""
    attacks, indices = context.attacks, context.model.correct_indices
    accuracy = [1 - float(attacks.succeeds(attacks.reference, indices).mean()) for _ in range(10)]
    return Finding(float(np.std(accuracy, ddof=1)), context.tolerance(0.01, float(np.mean(accuracy))))


def _settings(context: AuditContext) -> dict[str, Any]:
    """The settings that all attacks in this module share."""
    inputs = context.inputs
    return {"norm": inputs.norm, "eps": inputs.eps, "max_iter": inputs.effort.steps, "seed": inputs.seed}


def _gained(context: AuditContext, *attacks: EvasionAttack) -> Finding:
    return Finding(context.attacks.gain(*attacks), context.tolerance(0.01))


def _transfer(context: AuditContext, surrogates: Sequence[PyTorchClassifier]) -> Finding:
    return _gained(
        context, TransferAttack(context.inputs.classifier, surrogates=list(surrogates), **_settings(context))
    )


def _trained_surrogate(context: AuditContext) -> list[PyTorchClassifier]:
    """A small model trained on the training data, in the absence of a better surrogate."""
    inputs = context.inputs
    if inputs.train_data is None:
        return []
    x, y = (np.asarray(part)[:5000] for part in inputs.train_data)
    shape, classes = inputs.classifier.input_shape, inputs.classifier.nb_classes
    network = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 128), nn.ReLU(), nn.Linear(128, classes))
    surrogate = SensRegClassifier(
        network,
        nn.CrossEntropyLoss(),
        shape,
        classes,
        optimizer=torch.optim.Adam(network.parameters(), lr=2e-3),
        clip_values=inputs.classifier.clip_values,
        preprocessing=(context.threat.range[0], context.threat.width),
        device_type="gpu" if context.model.device.type == "cuda" else "cpu",
        penalties=[],
    )
    surrogate.fit(x.astype(np.float32), y, nb_epochs=10, batch_size=64, seed=inputs.seed % 2**31, verbose=False)
    return [surrogate]
