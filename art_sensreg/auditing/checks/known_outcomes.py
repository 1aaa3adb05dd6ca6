"""Attacks whose outcome is known beforehand: one that misses it is at fault, whatever it says of the audited model."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from art_sensreg.attacks.base.ascent import Steps, ascend, loss_on_logits
from art_sensreg.attacks.base.losses import LOSSES
from art_sensreg.auditing.checks.binarised import BinarisedCopies
from art_sensreg.auditing.context import Evidence
from art_sensreg.auditing.exemptions import beside, nothing_right, one_class, twin_is_the_model
from art_sensreg.auditing.linear_truth import linear_robust_accuracy
from art_sensreg.auditing.registry import Finding, check, not_applicable, skip

_CARLINI = "Carlini et al. 2019, arXiv 1902.06705, "


@check(
    source=_CARLINI + "section 5.2 (check that the attack breaks undefended models)",
    meaning="The attack does not even break the undefended twin: it is at fault, whatever it says of the defended one.",
    exempt=(twin_is_the_model, one_class),
)
def twin_falls(evidence: Evidence) -> Finding:
    """Accuracy of the twin where every image can be made grey, against the share of the most frequent class."""
    if evidence.twin is None:
        return skip("no `twin` was given: the same model trained without penalties.")
    twin = beside(evidence, evidence.twin)
    left = twin.correct_rows
    if not len(left):
        return not_applicable("the twin classifies no image rightly: there is none to attack.")
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
    exempt=(one_class,),
)
def known_weak_model_falls(evidence: Evidence) -> Finding:
    """Accuracy of a linear model under the attack, minus its exact worst case, where that is about one half."""
    weight, bias = _fitted_linear(evidence)
    points = np.clip(evidence.x.reshape(evidence.n, -1).astype(np.float64), *evidence.range)

    def truth(eps: float) -> float:
        return float(linear_robust_accuracy(weight, bias, points, evidence.y, eps, evidence.norm, evidence.range))

    eps = evidence.large_eps(0.5)
    while truth(eps) < 0.4 and eps > 1e-4 * evidence.large_eps(1.0):
        eps /= 1.5
    robust = float((_margins_reached(evidence, weight, bias, eps) <= 0).mean())
    return Finding(robust - truth(eps), evidence.widened(0.02, truth(eps)), f"at eps {eps:.3g}.")


@check(
    source="Zimmermann et al. 2022, arXiv 2206.13991, section 4",
    meaning="The attack misses adversarial images that exist by construction in copies with a linear readout on the "
    "model's own features: no failure to find one means anything.",
    exempt=(nothing_right,),
)
def binarised_copies_fall(evidence: Evidence) -> Finding:
    """Share of the binarised copies that the attack does not break."""
    rows = evidence.correct_rows[: evidence.effort.binarised]
    x, y = evidence.tensors(rows)
    ball, zeros = evidence.ball(), torch.zeros_like(y)
    copies = BinarisedCopies(
        evidence.model, x, ball, evidence.generator("binarised"), tapped=evidence.classifier.model
    ).eval()
    steps, broken = 2 * evidence.effort.steps, torch.zeros(len(rows), dtype=torch.bool, device=x.device)
    for restart, start in enumerate((x, ball.inside(x, evidence.generator("copies")))):
        loss = loss_on_logits(copies, zeros, lambda logits, _: logits[:, 1])
        found = ascend(loss, x, zeros, ball, start, Steps(eps_step=2.5 * ball.eps / steps, max_iter=steps))
        broken |= found.margin > 0
        if restart == 0:
            reached = copies(copies.border).argmax(1) == 1
    note = "" if bool(reached.all()) else f"{int((~reached).sum())} copies answer otherwise when asked again."
    return Finding(1 - float(broken.float().mean()), max(0.05, 1.5 / len(rows)), note)


def _fitted_linear(evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of a linear model in the user's units, fitted to the training data, or else to the points."""
    from sklearn.linear_model import LogisticRegression

    x, y = (np.asarray(part) for part in evidence.train_data or (evidence.x, evidence.y))
    chosen = np.random.default_rng(evidence.seed).permutation(len(x))[:2000]
    flat, labels = x[chosen].reshape(len(chosen), -1), y[chosen]
    labels = labels.argmax(axis=1) if labels.ndim == 2 and labels.shape[1] > 1 else labels.reshape(-1)
    low, classes = evidence.range[0], evidence.classifier.nb_classes
    fitted = LogisticRegression(max_iter=100).fit((flat - low) / evidence.width, labels)
    weight, bias = np.zeros((classes, flat.shape[1])), np.full(classes, -1e3)
    seen = fitted.classes_.astype(int)
    weight[seen], bias[seen] = _rows(fitted.coef_), _rows(fitted.intercept_[:, None])[:, 0]
    weight = weight / evidence.width
    return weight, bias - weight.sum(axis=1) * low


def _rows(values: np.ndarray) -> np.ndarray:
    """One row a class, also of two classes, for which scikit-learn keeps one row."""
    return np.concatenate([-values / 2, values / 2]) if len(values) == 1 else values


def _margins_reached(evidence: Evidence, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    """Largest margin that the reference attack reaches on a linear model, above 0 where it breaks it."""
    linear = nn.Linear(weight.shape[1], len(bias)).to(evidence.device, torch.float64).requires_grad_(False)
    linear.weight.copy_(torch.from_numpy(weight))
    linear.bias.copy_(torch.from_numpy(bias))
    model, best = nn.Sequential(nn.Flatten(), linear), np.full(evidence.n, -np.inf)
    x, y = evidence.tensors(np.arange(evidence.n))
    x, ball, steps = x.double().clamp(*evidence.range), evidence.ball(eps), evidence.effort.steps
    moves = Steps(eps_step=2.5 * eps / steps, max_iter=steps)
    for loss in ("cross_entropy", "logits_ratio"):
        start = ball.inside(x, evidence.generator("weak", loss))
        found = ascend(loss_on_logits(model, y, LOSSES[loss]), x, y, ball, start, moves)
        best = np.maximum(best, found.margin.cpu().numpy())
    return best
