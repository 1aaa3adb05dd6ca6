"""Adaptive checks: attacks that know of this defence, and attacks whose outcome is known beforehand."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.attacks import FarStartsAttack, HiddenDistanceAttack, ScaledLogitsAttack, TransferAttack
from art_sensreg.attacks.ascent import ascend
from art_sensreg.attacks.eot import EOT
from art_sensreg.attacks.linear_truth import linear_robust_accuracy
from art_sensreg.auditing.binarised import BinarisedCopies
from art_sensreg.auditing.evidence import Evidence, _loss_fn
from art_sensreg.auditing.registry import Finding, check, skip

logger = logging.getLogger(__name__)

_CARLINI = "Carlini et al. 2019, arXiv 1902.06705, "
_TRAMER = "Tramer et al. 2020, arXiv 2002.08347, "


@check(
    source=_CARLINI + "section 5.3 (transfer); Pintor et al. 2022, arXiv 2106.09947, indicator I5 (transfer failure)",
    meaning="Adversarial images of the undefended twin break what the attack on the model itself did not: its "
    "gradients are masked.",
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
)
def transfer_from_surrogates(evidence: Evidence) -> Finding:
    """Share of all images that adversarial images of the surrogates, and of all of them together, break."""
    surrogates = evidence.surrogates or _trained_surrogate(evidence)
    if not surrogates:
        return skip("no `surrogates` were given (an adversarially trained model, say), nor `train_data` to train one.")
    return _transfer(evidence, surrogates)


@check(
    source="Carlini and Wagner 2016, arXiv 1607.04311; Croce and Hein 2020, arXiv 2003.01690, section 4.1",
    meaning="Cross-entropy on rescaled logits or in float64 breaks more than on the logits as they are: its gradient "
    "vanishes for their scale; attack a loss that is free of scale (logits ratio).",
)
def logit_scale_matters_little(evidence: Evidence) -> Finding:
    """Share of all images that PGD breaks with logits times 1, 10, 100, of unit scale, or in float64."""
    attack = ScaledLogitsAttack(evidence.classifier, **_settings(evidence))
    return Finding(evidence.gain(evidence.generated(attack)), evidence.widened(0.01))


@check(
    source=_TRAMER + "section 2 (attack the defence's own quantity); arXiv 2009.11349 (what SR suppresses)",
    meaning="An attack on the hidden distances that the penalty suppresses breaks more than one on the output: include "
    "it in the evaluation.",
)
def hidden_distances_gain_little(evidence: Evidence) -> Finding:
    """Share of all images broken by PGD on cross-entropy plus hidden distances, away, and towards another class."""
    layers = next((penalty.layers for penalty in evidence.penalties if hasattr(penalty, "layers")), "hidden")
    attacks = [
        HiddenDistanceAttack(evidence.classifier, direction=direction, layers=layers, **_settings(evidence))
        for direction in ("away", "towards")
    ]
    return Finding(evidence.gain(*map(evidence.generated, attacks)), evidence.widened(0.01))


@check(
    source=_TRAMER + "section 3 (start elsewhere); Croce and Hein 2020, arXiv 2003.01690",
    meaning="Starts on the border or towards other classes break more: the loss is flat around the images; use many "
    "far starts.",
)
def far_starts_gain_little(evidence: Evidence) -> Finding:
    """Share of all images that attacks from the border of the ball and from other classes' images break."""
    attack = FarStartsAttack(evidence.classifier, nb_restarts=evidence.effort.restarts, **_settings(evidence))
    return Finding(evidence.gain(evidence.generated(attack)), evidence.widened(0.01))


@check(
    source=_CARLINI + "section 5.2 (check that the attack breaks undefended models)",
    meaning="The attack does not even break the undefended twin: it is at fault, whatever it says of the defended one.",
)
def twin_falls(evidence: Evidence) -> Finding:
    """Accuracy of the twin where every image can be made grey, against the share of the most frequent class."""
    if evidence.twin is None:
        return skip("no `twin` was given: the same model trained without penalties.")
    twin = _other(evidence, evidence.twin)
    left = twin.correct_rows
    for loss in ("cross_entropy", "logits_ratio"):
        if len(left):
            eps = evidence.large_eps(0.5)
            found = twin.ascent(left, "twin", loss, eps=eps, loss=loss, max_iter=2 * evidence.effort.steps)
            left = left[~twin.broken(found, left)]
    chance = float(np.bincount(evidence.y).max()) / evidence.n
    note = f"at eps the twin holds {twin.robust_accuracy:.3f}, the model {evidence.robust_accuracy:.3f}."
    return Finding(len(left) / evidence.n, chance + evidence.widened(0.0, chance), note)


@check(
    source=_CARLINI + "section 5.2; the exact worst case of a linear model",
    meaning="The attack misses adversarial images of a linear model that are known to exist: it is at fault.",
)
def known_weak_model_falls(evidence: Evidence) -> Finding:
    """Accuracy of a linear model under the attack, minus its exact worst case, where that is about one half."""
    x, y = evidence.train_data or (evidence.x, evidence.y)
    from sklearn.linear_model import LogisticRegression

    rows = evidence.generator("weak").initial_seed() % 2**32
    chosen = np.random.default_rng(rows).permutation(len(x))[:2000]
    flat = np.asarray(x)[chosen].reshape(len(chosen), -1)
    labels = np.asarray(y)[chosen]
    labels = labels.argmax(axis=1) if labels.ndim == 2 else labels
    low, width = evidence.range[0], evidence.width
    fitted = LogisticRegression(max_iter=100).fit((flat - low) / width, labels)
    weight, bias = (
        np.zeros((evidence.classifier.nb_classes, flat.shape[1])),
        np.full(evidence.classifier.nb_classes, -1e3),
    )
    weight[fitted.classes_], bias[fitted.classes_] = _rows(fitted.coef_), _rows(fitted.intercept_[:, None])[:, 0]
    weight, bias = weight / width, bias - weight.sum(1) * low / width
    points, clip = evidence.x.reshape(evidence.n, -1).astype(np.float64), evidence.range

    def truth(eps: float) -> float:
        return float(linear_robust_accuracy(weight, bias, points, evidence.y, eps, evidence.norm, clip))

    eps = evidence.large_eps(0.5)
    while truth(eps) < 0.4 and eps > 1e-4 * evidence.large_eps(1.0):
        eps /= 1.5
    linear = nn.Linear(flat.shape[1], len(bias)).to(evidence.device, torch.float64).requires_grad_(False)
    linear.weight.copy_(torch.from_numpy(weight))
    linear.bias.copy_(torch.from_numpy(bias))
    model = nn.Sequential(nn.Flatten(), linear)
    rows_left = np.arange(evidence.n)
    inputs = evidence.tensors(rows_left)
    left = ~(_linear_attack(evidence, model, inputs[0].double(), inputs[1], eps) > 0)
    return Finding(float(left.mean()) - truth(eps), evidence.widened(0.02, truth(eps)), f"at eps {eps:.3g}.")


@check(
    source="Zimmermann et al. 2022, arXiv 2206.13991, section 4",
    meaning="The attack misses adversarial images that exist by construction in copies with a linear readout on the "
    "model's own features: no failure to find one means anything.",
)
def binarised_copies_fall(evidence: Evidence) -> Finding:
    """Share of the binarised copies that the attack does not break."""
    rows = evidence.correct_rows[: evidence.effort.binarised]
    if not len(rows):
        return Finding(0.0, 0.05, "no image is classified rightly.")
    x, y = evidence.tensors(rows)
    ball, zeros = evidence.ball(), torch.zeros_like(y)
    copies = BinarisedCopies(
        evidence.model, x, ball, evidence.generator("binarised"), tapped=evidence.classifier.model
    ).eval()
    steps, broken = 2 * evidence.effort.steps, torch.zeros(len(rows), dtype=torch.bool, device=x.device)
    for restart, start in enumerate((x, ball.inside(x, evidence.generator("copies")))):
        loss = _loss_fn(copies, lambda logits, _: logits[:, 1], zeros)
        found = ascend(loss, x, zeros, ball, start, 2.5 * ball.eps / steps, steps)
        broken |= found.margin > 0
        if restart == 0:
            reached = copies(copies.border).argmax(1) == 1
    note = "" if bool(reached.all()) else f"{int((~reached).sum())} copies answer otherwise when asked again."
    return Finding(1 - float(broken.float().mean()), max(0.05, 1.5 / len(rows)), note)


@check(
    source="Athalye et al. 2018, arXiv 1802.00420, section 4.2 (EOT)",
    meaning="Averaging the gradient over more samples breaks more: the attack's estimate is too noisy; raise the "
    "number of samples until it changes nothing.",
)
def eot_samples_suffice(evidence: Evidence) -> Finding:
    """Share of all images that an attack on 16 samples a step breaks beyond one on 4 (random models only)."""
    if not _random(evidence):
        return Finding(0.0, evidence.widened(0.01), "the model is deterministic: one sample is the mean.")
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
)
def repeated_scoring_agrees(evidence: Evidence) -> Finding:
    """Spread of the accuracy over ten scorings of the same adversarial images."""
    if not _random(evidence):
        return Finding(0.0, evidence.widened(0.01), "the model is deterministic.")
    rows = evidence.correct_rows
    accuracy = [1 - float(evidence.broken(evidence.reference, rows).mean()) for _ in range(10)]
    return Finding(float(np.std(accuracy, ddof=1)), evidence.widened(0.01, float(np.mean(accuracy))))


def _settings(evidence: Evidence) -> dict[str, Any]:
    return {"norm": evidence.norm, "eps": evidence.eps, "max_iter": evidence.effort.steps, "seed": evidence.seed}


def _random(evidence: Evidence) -> bool:
    rows = slice(0, min(64, evidence.n))
    first, second = evidence.predict(evidence.x[rows]), evidence.predict(evidence.x[rows])
    return bool(np.abs(first - second).max() > 1e-5 * (np.ptp(first, axis=1).mean() + 1e-12))


def _transfer(evidence: Evidence, surrogates: Sequence[PyTorchClassifier]) -> Finding:
    attack = TransferAttack(evidence.classifier, surrogates=list(surrogates), **_settings(evidence))
    return Finding(evidence.gain(evidence.generated(attack)), evidence.widened(0.01))


def _other(evidence: Evidence, classifier: PyTorchClassifier) -> Evidence:
    """The same points and attacks, on another classifier."""
    eps, norm, seed = evidence.eps, evidence.norm, evidence.seed
    return Evidence(classifier, evidence.x, evidence.y, eps=eps, norm=norm, seed=seed, effort=evidence.effort)


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


def _rows(values: np.ndarray) -> np.ndarray:
    """One row a class, also of two classes, for which scikit-learn keeps one row."""
    return np.concatenate([-values / 2, values / 2]) if len(values) == 1 else values


def _linear_attack(evidence: Evidence, model: nn.Module, x: torch.Tensor, y: torch.Tensor, eps: float) -> np.ndarray:
    """Largest margin that the reference attack reaches on a linear model."""
    best = np.full(len(x), -np.inf)
    ball = evidence.ball(eps)
    steps = evidence.effort.steps
    for loss in ("cross_entropy", "logits_ratio"):
        from art_sensreg.attacks.losses import LOSSES

        start = ball.inside(x, evidence.generator("weak", loss))
        found = ascend(_loss_fn(model, LOSSES[loss], y), x, y, ball, start, 2.5 * eps / steps, steps)
        best = np.maximum(best, found.margin.cpu().numpy())
    return best
