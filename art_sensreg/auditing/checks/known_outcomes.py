"""Attacks whose outcome is known in advance: an attack that misses it is faulty, whatever it says about the model."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from art_sensreg.attacks.base.ascent import Steps, ascend, loss_on_logits
from art_sensreg.attacks.base.losses import LOSSES
from art_sensreg.attacks.base.norms import Ball
from art_sensreg.auditing.checks.binarised import BinarisedCopies
from art_sensreg.auditing.checks.exemptions import NOTHING_CORRECT, ONE_CLASS, TWIN_IS_THE_MODEL
from art_sensreg.auditing.checks.linear_truth import linear_robust_accuracy
from art_sensreg.auditing.checks.registry import Finding, not_applicable, register_check, skip
from art_sensreg.auditing.context import AuditContext, PgdSettings

_CARLINI = "Carlini et al. 2019, arXiv 1902.06705, "


@register_check(
    source=_CARLINI + "section 5.2 (check that the attack breaks undefended models)",
    meaning="The attack does not even break the undefended twin: it is at fault, whatever it says of the defended "
    "model.",
    exemptions=(TWIN_IS_THE_MODEL, ONE_CLASS),
)
def twin_falls(context: AuditContext) -> Finding:
    """Accuracy of the twin where every image can be turned grey, against the share of the most frequent class."""
    inputs = context.inputs
    if inputs.twin is None:
        return skip("no `twin` was given: the same model trained without penalties.")
    twin = context.of(inputs.twin)
    if not len(twin.model.correct_indices):
        return not_applicable("the twin classifies no image correctly: there is none to attack.")
    eps, steps = context.threat.large_eps(0.5), 2 * inputs.effort.steps
    attacks = [PgdSettings(("twin", loss), loss, eps=eps, max_iter=steps) for loss in ("cross_entropy", "logits_ratio")]
    left = twin.attacks.resisting(twin.model.correct_indices, *attacks)
    chance = float(np.bincount(inputs.y).max()) / inputs.n
    robust = [each.attacks.robust_accuracy for each in (twin, context)]
    note = f"at eps the robust accuracy of the twin is {robust[0]:.3f}, that of the model {robust[1]:.3f}."
    return Finding(len(left) / inputs.n, chance + context.tolerance(0.0, chance), note)


@register_check(
    source=_CARLINI + "section 5.2; the exact worst case of a linear model",
    meaning="The attack misses adversarial images of a linear model that are known to exist: it is at fault.",
    exemptions=(ONE_CLASS,),
)
def known_weak_model_falls(context: AuditContext) -> Finding:
    """Accuracy of a linear model under the attack minus its exact worst case, at an eps where that is about a half."""
    inputs, threat = context.inputs, context.threat
    weight, bias = _fitted_linear(context)
    points = np.clip(inputs.x.reshape(inputs.n, -1).astype(np.float64), *threat.range)

    def exact(eps: float) -> float:
        return linear_robust_accuracy(weight, bias, points, inputs.y, Ball(threat.norm, eps, *threat.range))

    eps = threat.large_eps(0.5)
    while exact(eps) < 0.4 and eps > 1e-4 * threat.large_eps(1.0):
        eps /= 1.5
    robust = float((_margins_reached(context, weight, bias, eps) <= 0).mean())
    return Finding(robust - exact(eps), context.tolerance(0.02, exact(eps)), f"at eps {eps:.3g}.")


@register_check(
    source="Zimmermann et al. 2022, arXiv 2206.13991, section 4",
    meaning="The attack misses adversarial images that exist by construction in copies with a linear readout on the "
    "model's own features, so that its failures on the model mean nothing.",
    exemptions=(NOTHING_CORRECT,),
)
def binarised_copies_fall(context: AuditContext) -> Finding:
    """Fraction of the binarised copies on which the attack fails."""
    indices = context.model.correct_indices[: context.inputs.effort.binarised]
    x, y = context.model.tensors(indices)
    ball, zeros, generator = context.threat.ball(), torch.zeros_like(y), context.inputs.generator
    tapped = context.inputs.classifier.model
    copies = BinarisedCopies(context.model.module, x, ball, generator("binarised"), tapped).eval()
    max_iter, broken = 2 * context.inputs.effort.steps, torch.zeros(len(indices), dtype=torch.bool, device=x.device)
    steps = Steps(eps_step=2.5 * ball.eps / max_iter, max_iter=max_iter)
    loss = loss_on_logits(copies, zeros, lambda logits, _: logits[:, 1])
    for restart, start in enumerate((x, ball.inside(x, generator("copies")))):
        found = ascend(loss, x, zeros, ball, start, steps)
        broken |= found.margin > 0
        if restart == 0:
            reached = copies(copies.border).argmax(1) == 1
    note = "" if bool(reached.all()) else f"{int((~reached).sum())} copies predict otherwise when asked again."
    return Finding(1 - float(broken.float().mean()), max(0.05, 1.5 / len(indices)), note)


def _fitted_linear(context: AuditContext) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of a linear model in the user's units, fitted to the training data, or else to the points."""
    inputs = context.inputs
    x, y = (np.asarray(part) for part in inputs.train_data or (inputs.x, inputs.y))
    chosen = np.random.default_rng(inputs.seed).permutation(len(x))[:2000]
    flat, labels = x[chosen].reshape(len(chosen), -1), y[chosen]
    labels = labels.argmax(axis=1) if labels.ndim == 2 and labels.shape[1] > 1 else labels.reshape(-1)
    low, width, classes = context.threat.range[0], context.threat.width, inputs.classifier.nb_classes
    fitted = LogisticRegression(max_iter=100).fit((flat - low) / width, labels)
    weight, bias = np.zeros((classes, flat.shape[1])), np.full(classes, -1e3)
    seen = fitted.classes_.astype(int)
    weight[seen], bias[seen] = _per_class(fitted.coef_), _per_class(fitted.intercept_[:, None])[:, 0]
    weight = weight / width
    return weight, bias - weight.sum(axis=1) * low


def _per_class(values: np.ndarray) -> np.ndarray:
    """One row per class, also for two classes, for which scikit-learn stores a single row."""
    return np.concatenate([-values / 2, values / 2]) if len(values) == 1 else values


def _margins_reached(context: AuditContext, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    """Largest margin that the reference attack reaches on a linear model; above 0 where it succeeds."""
    inputs, ball, max_iter = context.inputs, context.threat.ball(eps), context.inputs.effort.steps
    steps = Steps(eps_step=2.5 * eps / max_iter, max_iter=max_iter)
    linear = nn.Linear(weight.shape[1], len(bias)).to(context.model.device, torch.float64).requires_grad_(False)
    linear.weight.copy_(torch.from_numpy(weight))
    linear.bias.copy_(torch.from_numpy(bias))
    model, best = nn.Sequential(nn.Flatten(), linear), np.full(inputs.n, -np.inf)
    x, y = context.model.tensors(np.arange(inputs.n))
    x = x.double().clamp(*context.threat.range)
    for loss in ("cross_entropy", "logits_ratio"):
        start = ball.inside(x, inputs.generator("weak", loss))
        found = ascend(loss_on_logits(model, y, LOSSES[loss]), x, y, ball, start, steps)
        best = np.maximum(best, found.margin.cpu().numpy())
    return best
