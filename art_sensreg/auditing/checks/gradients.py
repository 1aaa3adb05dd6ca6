"""Gradients: whether they exist, are correct, and are informative at the size of an attack's steps."""

from __future__ import annotations

import copy

import numpy as np
import torch
from art.utils import to_categorical
from torch import nn

from art_sensreg.attacks.base.ascent import loss_on_logits, value_and_grad
from art_sensreg.attacks.base.losses import LOSSES, margin
from art_sensreg.attacks.base.norms import perturbation_norm
from art_sensreg.auditing.checks.exemptions import DECLARED_RANDOM, NOTHING_CORRECT, ONE_OUTPUT
from art_sensreg.auditing.checks.registry import Finding, not_applicable, register_check
from art_sensreg.auditing.context import AuditContext
from art_sensreg.utils.precision import full_float32
from art_sensreg.utils.text import error_text

_POINTS = 128
_MISMATCH = 0.3
_PINTOR = "Pintor et al. 2022, arXiv 2106.09947, section 3, "
_ATHALYE = "Athalye et al. 2018, arXiv 1802.00420, section 3.1 "


@register_check(
    source=_PINTOR + "indicator I1 (unavailable gradients)",
    meaning="Gradients are zero, so that gradient attacks stand still: attack the logits ratio, rescale the logits, or "
    "pass gradients straight through the non-differentiable parts (art_sensreg.attacks.BPDA).",
    exemptions=(NOTHING_CORRECT,),
)
def gradients_not_zero(context: AuditContext) -> Finding:
    """Fraction of the correctly classified images whose input gradient is zero, for cross-entropy or the margin."""
    shares = {loss: float((grad == 0).all(1).float().mean()) for loss, grad in _raw_gradients(context).items()}
    return Finding(max(shares.values()), 0.1, _by_loss(shares))


@register_check(
    source=_PINTOR + "indicator I1; " + _ATHALYE + "(exploding gradients)",
    meaning="Gradients are NaN or infinite: look for square roots, divisions and logarithms at zero, and for overflow.",
    exemptions=(NOTHING_CORRECT,),
)
def gradients_finite(context: AuditContext) -> Finding:
    """Fraction of the correctly classified images whose input gradient contains NaN or infinity."""
    gradients = _raw_gradients(context)
    shares = {loss: float((~torch.isfinite(grad).all(1)).float().mean()) for loss, grad in gradients.items()}
    return Finding(max(shares.values()), 0.0, _by_loss(shares))


@register_check(
    source=_ATHALYE + "(shattered gradients); Carlini et al. 2019, arXiv 1902.06705, section 5.6",
    meaning="Autograd does not return the derivative of what the model computes, because some operation detaches, "
    "replaces or reverses the gradient: find it, or attack with BPDA.",
    exemptions=(DECLARED_RANDOM, NOTHING_CORRECT),
)
def gradients_match_differences(context: AuditContext) -> Finding:
    """Error of the margin's gradient against central differences of three sizes, at the images and near them."""
    with full_float32(context.model.device):
        return _compared_with_differences(context)


@register_check(
    source="Athalye et al. 2018, arXiv 1802.00420, section 4 (attack what is deployed)",
    meaning="`loss_gradient`, which ART's attacks follow, points away from the model's own gradient, because the "
    "classifier overrides or postprocesses it: attack the model through art_sensreg.attacks.differentiable_model.",
    exemptions=(DECLARED_RANDOM, ONE_OUTPUT, NOTHING_CORRECT),
)
def loss_gradient_is_the_models(context: AuditContext) -> Finding:
    """1 minus the median cosine between the classifier's `loss_gradient` and the gradient of cross-entropy."""
    model, classifier = context.model, context.inputs.classifier
    indices = model.correct_indices[:_POINTS]
    x, y = model.tensors(indices)
    gradient = value_and_grad(loss_on_logits(model.module, y, LOSSES["cross_entropy"]), x)[0].cpu().numpy()
    one_hot = to_categorical(context.inputs.y[indices], classifier.nb_classes)
    try:
        own = np.asarray(classifier.loss_gradient(context.inputs.x[indices].astype(model.array_dtype), one_hot))
    except (ValueError, RuntimeError) as error:
        return Finding(1.0, 0.5, f"loss_gradient raises {error_text(error)}.")
    first, second = (array.reshape(len(indices), -1).astype(np.float64) for array in (gradient, own))
    norms = [np.linalg.norm(array, axis=1) for array in (first, second)]
    product = norms[0] * norms[1]
    # Where only one is zero they disagree; where both are, gradients_not_zero speaks.
    comparable = (product > 0) | ((norms[0] > 0) != (norms[1] > 0))
    if not comparable.any():
        return not_applicable("all gradients are zero: see gradients_not_zero.")
    cosine = np.where(product > 0, (first * second).sum(axis=1) / np.where(product > 0, product, 1), 0.0)
    return Finding(float(1 - np.median(cosine[comparable])), 0.5)


@register_check(
    source=_ATHALYE + "(shattered gradients); Tramer et al. 2020, arXiv 2002.08347, section 3",
    meaning="A step along the gradient does not do what the gradient promises at the size of an attack's steps, "
    "because the loss is jagged: smooth it (EOT over noise), replace the jagged part (BPDA), or transfer.",
    exemptions=(DECLARED_RANDOM, NOTHING_CORRECT),
)
def gradients_hold_at_step_size(context: AuditContext) -> Finding:
    """1 minus the ratio of the margin's gain to the one that the gradient promises, for steps of eps/8 and eps/2."""
    module, ball = context.model.module, context.threat.ball()
    x, y = context.model.tensors(context.model.correct_indices[:_POINTS])
    gradient, start, _ = value_and_grad(loss_on_logits(module, y, margin), x)
    ratios = []
    for part in (8, 2):
        moved = torch.clamp(x + ball.eps / part * ball.steepest(gradient), ball.low, ball.high)
        promised = (gradient * (moved - x)).flatten(1).sum(1)
        with torch.no_grad():
            gained = margin(module(moved), y) - start
        if not bool((promised > 0).any()):
            return not_applicable("the gradient promises no gain: see gradients_not_zero.")
        ratios.append(float(gained.sum() / promised.sum().clamp_min(1e-12)))
    text = ", ".join(f"{ratio:.2g}" for ratio in ratios)
    # Much more than promised is no better: part of the gradient is missing.
    value = max(1 - min(ratios), 1 - 1 / max(ratios[0], 1.0))
    return Finding(value, 0.75, f"gain relative to the promised one, at eps/8 and eps/2: {text}.")


@register_check(
    source=_PINTOR + "indicator I2 (unstable predictions)",
    meaning="Noise far below eps changes predictions: the model is jagged around its data and its gradients are of no "
    "use; attack it with EOT over noise, or without gradients.",
    exemptions=(NOTHING_CORRECT,),
)
def predictions_stable(context: AuditContext) -> Finding:
    """Fraction of the correctly classified images that random noise of size eps/10 turns, mean of ten draws."""
    indices, ball = context.model.correct_indices, context.threat.ball(context.threat.eps / 10)
    x, generator = context.model.tensors(indices)[0], context.inputs.generator("stable")
    correct = [context.model.is_correct(ball.border(x, generator).cpu().numpy(), indices) for _ in range(10)]
    return Finding(1 - float(np.mean(correct)), context.tolerance(0.02, 0.02, len(indices)))


def _raw_gradients(context: AuditContext) -> dict[str, torch.Tensor]:
    """Input gradients by loss, one per image, including the NaNs that attacks replace by zero."""
    x, y = context.model.tensors(context.model.correct_indices[:_POINTS])
    gradients = {}
    for loss in ("cross_entropy", "margin"):
        leaf = x.clone().requires_grad_(True)
        with torch.enable_grad():
            value = LOSSES[loss](context.model.module(leaf), y).sum()
        gradient = torch.autograd.grad(value, leaf, allow_unused=True)[0] if value.requires_grad else None
        gradients[loss] = (torch.zeros_like(leaf) if gradient is None else gradient.detach()).flatten(1)
    return gradients


def _by_loss(shares: dict[str, float]) -> str:
    return f"for {', for '.join(f'{name} {share:.3g}' for name, share in shares.items())}."


def _compared_with_differences(context: AuditContext) -> Finding:
    smallest, *larger = _sizes(context)
    model = _in_float64(context)
    x, y = context.model.tensors(context.model.correct_indices[:_POINTS])
    loss_fn = loss_on_logits(context.model.module, y, margin)
    # A flat patch of an image may lie on a kink as a whole: the neighbours under a max-pooling are equal, and autograd
    # takes one of them. Almost no point near by does, and there the gradient must be the derivative.
    exact = model is not context.model.module
    distance, step = (smallest, 1e-3 * smallest) if exact else (min(30 * smallest, context.threat.eps), smallest)
    near = _dithered(context, x, distance)
    # The larger sizes are for declared surrogates, whose gradient is only valid at the scale of the attack.
    trials = [(x, smallest), (near, step), *((x, size) for size in larger)]
    dtype, errors = torch.float64 if exact else x.dtype, []
    for points, size in trials:
        gradient = value_and_grad(loss_fn, points)[0].to(dtype)
        errors.append(_difference_error(context, model, points.to(dtype), y, gradient, size))
        if errors[-1] <= _MISMATCH:
            break
    text = ", ".join(f"{error:.2g}" for error in errors)
    return Finding(min(errors), _MISMATCH, f"at the images, near them, and over larger distances: {text}.")


def _in_float64(context: AuditContext) -> nn.Module:
    """A float64 copy of the model, where differences lose no digits; the model itself if it cannot be copied."""
    module = context.model.module
    x = context.model.tensors(np.arange(1))[0]
    try:
        double = copy.deepcopy(module).double()
        with torch.no_grad():
            exact, usual = double(x.double()), module(x)
    except Exception:  # noqa: BLE001 - a user's model may refuse copies or float64 in any way
        return module
    if not bool(torch.isfinite(usual).all()):
        return module
    same = torch.allclose(exact.to(usual), usual, rtol=1e-3, atol=1e-3 * float(usual.abs().max()))
    return double if exact.dtype == torch.float64 and same else module


def _dithered(context: AuditContext, x: torch.Tensor, size: float) -> torch.Tensor:
    """Images moved by uniform noise of a size in each pixel, reflected at the ends of the range."""
    noise = torch.rand(x.shape, generator=context.inputs.generator("near"), dtype=torch.float32).to(x).mul_(2).sub_(1)
    low, high = (torch.as_tensor(end, dtype=x.dtype, device=x.device) for end in context.threat.clip)
    moved = x + size * noise
    moved = torch.where(moved < low, 2 * low - moved, moved)
    return torch.where(moved > high, 2 * high - moved, moved).clamp(low, high)


def _sizes(context: AuditContext) -> tuple[float, float, float]:
    """Sizes of the differences, the smallest first."""
    eps = context.threat.eps
    return min(1e-3 * context.threat.width, eps / 10), eps / 4, eps


def _difference_error(
    context: AuditContext, model: nn.Module, x: torch.Tensor, y: torch.Tensor, gradient: torch.Tensor, size: float
) -> float:
    """
    How far autograd is from central differences of `size` along eight random directions.

    At the smallest size this is the median over images of |numeric - autograd| / |numeric|; at larger ones, where
    curvature and the steps of a quantiser matter too, 1 minus the cosine of the two over all images and directions.
    """
    generator, norm = context.inputs.generator("differences"), context.threat.norm
    numeric, analytic = [], []
    scale = size if norm == "linf" else size / float(perturbation_norm(torch.ones_like(x[:1]), norm))
    for _ in range(8):
        direction = torch.randn(x.shape, generator=generator, dtype=torch.float32).to(x).sign()
        with torch.no_grad():
            ahead, behind = (margin(model(x + sign * scale * direction), y) for sign in (1, -1))
        numeric.append((ahead - behind) / (2 * scale))
        analytic.append((gradient * direction).flatten(1).sum(1))
    found, given = torch.stack(numeric, 1), torch.stack(analytic, 1)
    if size > _sizes(context)[0]:
        norms = found.norm() * given.norm()
        return float(1 - (found * given).sum() / norms) if bool(norms > 0) else float(bool(found.any() or given.any()))
    of = torch.maximum(found.norm(dim=1), 1e-3 * given.norm(dim=1))
    error = torch.where(of > 0, (found - given).norm(dim=1) / of.clamp_min(1e-30), torch.zeros_like(of))
    return float(error.nan_to_num(nan=float("inf")).median())
