"""Adaptive checks: attacks that know of this defence, of other models, and of randomness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.attacks import FarStartsAttack, HiddenDistanceAttack, ScaledLogitsAttack, TransferAttack
from art_sensreg.attacks.hidden_distance import TappedModel
from art_sensreg.attacks.wrappers.eot import EOT
from art_sensreg.auditing.context import Evidence
from art_sensreg.auditing.exemptions import deterministic_model, nothing_right, same_model, twin_is_the_model
from art_sensreg.auditing.registry import Finding, check, not_applicable, skip

_CARLINI = "Carlini et al. 2019, arXiv 1902.06705, "
_TRAMER = "Tramer et al. 2020, arXiv 2002.08347, "


@check(
    source=_CARLINI + "section 5.3 (transfer); Pintor et al. 2022, arXiv 2106.09947, indicator I5 (transfer failure)",
    meaning="Adversarial images of the undefended twin break what the attack on the model itself did not: its "
    "gradients are masked.",
    exempt=(nothing_right, twin_is_the_model),
)
def transfer_from_twin(evidence: Evidence) -> Finding:
    """Share of all images that adversarial images of the twin break."""
    if evidence.twin is None:
        return skip("no `twin` was given: the same model trained without penalties.")
    return _transfer(evidence, [evidence.twin])


@check(
    source=_CARLINI + "section 5.3 (transfer); Pintor et al. 2022, arXiv 2106.09947, indicator I5 (transfer failure)",
    meaning="Adversarial images of other models break what the attack on the model itself did not: its gradients are "
    "masked.",
    exempt=(nothing_right,),
)
def transfer_from_surrogates(evidence: Evidence) -> Finding:
    """Share of all images that adversarial images of the surrogates, and of all of them together, break."""
    surrogates = evidence.surrogates or _trained_surrogate(evidence)
    if not surrogates:
        return skip("no `surrogates` were given (an adversarially trained model, say), nor `train_data` to train one.")
    others = [surrogate for surrogate in surrogates if not same_model(evidence, surrogate)]
    if not others:
        return not_applicable("the surrogates are the model itself: expected other models.")
    return _transfer(evidence, others)


@check(
    source="Carlini and Wagner 2016, arXiv 1607.04311; Croce and Hein 2020, arXiv 2003.01690, section 4.1",
    meaning="Cross-entropy on rescaled logits or in float64 breaks more than on the logits as they are: its gradient "
    "vanishes for their scale; attack a loss that is free of scale (logits ratio).",
    exempt=(nothing_right,),
)
def logit_scale_matters_little(evidence: Evidence) -> Finding:
    """Share of all images that PGD breaks with logits times 1, 10, 100, of unit scale, or in float64."""
    attack = ScaledLogitsAttack(evidence.classifier, **_settings(evidence))
    return Finding(evidence.gain(evidence.generated(attack)), evidence.widened(0.01))


@check(
    source=_TRAMER + "section 2 (attack the defence's own quantity); arXiv 2009.11349 (what SR suppresses)",
    meaning="An attack on the hidden distances that the penalty suppresses breaks more than one on the output: include "
    "it in the evaluation.",
    exempt=(nothing_right,),
)
def hidden_distances_gain_little(evidence: Evidence) -> Finding:
    """Share of all images broken by PGD on cross-entropy plus hidden distances, away, and towards another class."""
    layers = next((penalty.layers for penalty in evidence.penalties if hasattr(penalty, "layers")), "hidden")
    images = evidence.tensors(np.arange(min(2, evidence.n)))[0]
    if TappedModel.plan(evidence.model, evidence.classifier.model, layers, images).kept is None:
        return not_applicable("the model has no hidden activations.")
    attacks = [
        HiddenDistanceAttack(evidence.classifier, direction=direction, layers=layers, **_settings(evidence))
        for direction in ("away", "towards")
    ]
    return Finding(evidence.gain(*map(evidence.generated, attacks)), evidence.widened(0.01))


@check(
    source=_TRAMER + "section 3 (start elsewhere); Croce and Hein 2020, arXiv 2003.01690",
    meaning="Starts on the border or towards other classes break more: the loss is flat around the images; use many "
    "far starts.",
    exempt=(nothing_right,),
)
def far_starts_gain_little(evidence: Evidence) -> Finding:
    """Share of all images that attacks from the border of the ball and from other classes' images break."""
    attack = FarStartsAttack(evidence.classifier, nb_restarts=evidence.effort.restarts, **_settings(evidence))
    return Finding(evidence.gain(evidence.generated(attack)), evidence.widened(0.01))


@check(
    source="Athalye et al. 2018, arXiv 1802.00420, section 4.2 (EOT)",
    meaning="Averaging the gradient over more samples breaks more: the attack's estimate is too noisy; raise the "
    "number of samples until it changes nothing.",
    exempt=(deterministic_model, nothing_right),
)
def eot_samples_suffice(evidence: Evidence) -> Finding:
    """Share of all images that an attack on 16 samples a step breaks beyond one on 4 (random models only)."""
    inner = evidence.classifier.model.model if evidence.declared_random else evidence.classifier.model
    accuracy = []
    for samples in (1, 4, 16):
        rows = evidence.correct_rows[:128]
        found = evidence.ascent(rows, "eot", max_iter=20, model=EOT(inner, samples=samples).eval())
        accuracy.append(1 - float(np.mean([evidence.broken(found, rows) for _ in range(5)])))
    text = ", ".join(f"{value:.3f}" for value in accuracy)
    return Finding(accuracy[1] - accuracy[2], evidence.widened(0.01, accuracy[1]), f"at 1, 4, 16 samples: {text}.")


@check(
    source="Athalye et al. 2018, arXiv 1802.00420, section 4.2; Croce et al. 2022, arXiv 2202.13711",
    meaning="Scoring the same adversarial images again gives another accuracy: one success was luck; score with fresh "
    "samples several times (RandomizedClassifier.score).",
    exempt=(deterministic_model, nothing_right),
)
def repeated_scoring_agrees(evidence: Evidence) -> Finding:
    """Spread of the accuracy over ten scorings of the same adversarial images."""
    rows = evidence.correct_rows
    accuracy = [1 - float(evidence.broken(evidence.reference, rows).mean()) for _ in range(10)]
    return Finding(float(np.std(accuracy, ddof=1)), evidence.widened(0.01, float(np.mean(accuracy))))


def _settings(evidence: Evidence) -> dict[str, Any]:
    return {"norm": evidence.norm, "eps": evidence.eps, "max_iter": evidence.effort.steps, "seed": evidence.seed}


def _transfer(evidence: Evidence, surrogates: Sequence[PyTorchClassifier]) -> Finding:
    attack = TransferAttack(evidence.classifier, surrogates=list(surrogates), **_settings(evidence))
    return Finding(evidence.gain(evidence.generated(attack)), evidence.widened(0.01))


def _trained_surrogate(evidence: Evidence) -> list[PyTorchClassifier]:
    """A small model trained on the training data, for want of a better surrogate."""
    if evidence.train_data is None:
        return []
    from art_sensreg.classifiers import SensRegClassifier

    x, y = (np.asarray(part)[:5000] for part in evidence.train_data)
    shape, classes = evidence.classifier.input_shape, evidence.classifier.nb_classes
    network = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 128), nn.ReLU(), nn.Linear(128, classes))
    surrogate = SensRegClassifier(
        network,
        nn.CrossEntropyLoss(),
        shape,
        classes,
        optimizer=torch.optim.Adam(network.parameters(), lr=2e-3),
        clip_values=evidence.classifier.clip_values,
        preprocessing=(evidence.range[0], evidence.width),
        device_type="gpu" if evidence.device.type == "cuda" else "cpu",
    )
    surrogate.fit(x.astype(np.float32), y, nb_epochs=10, batch_size=64, seed=evidence.seed % 2**31)
    return [surrogate]
