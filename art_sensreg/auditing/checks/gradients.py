"""Gradients: whether those that an attack follows are there, are right, and are of use at its step size."""

from __future__ import annotations

import copy

import numpy as np
import torch
from art.utils import to_categorical
from torch import nn

from art_sensreg.attacks.base.ascent import loss_on_logits, value_and_grad
from art_sensreg.attacks.base.losses import LOSSES, margin
from art_sensreg.attacks.base.norms import perturbation_norm
from art_sensreg.auditing.context import Evidence
from art_sensreg.auditing.exemptions import declared_random, nothing_right, one_output
from art_sensreg.auditing.registry import Finding, check, not_applicable
from art_sensreg.utils.precision import full_float32

_POINTS = 128
_MISMATCH = 0.3
_PINTOR = "Pintor et al. 2022, arXiv 2106.09947, section 3, "
_ATHALYE = "Athalye et al. 2018, arXiv 1802.00420, section 3.1 "


@check(
    source=_PINTOR + "indicator I1 (unavailable gradients)",
    meaning="Gradients are zero, so that attacks by gradient stand still: attack the logits ratio, rescale the logits, "
    "or pass non-differentiable parts straight through (art_sensreg.attacks.BPDA).",
    exempt=(nothing_right,),
)
def gradients_not_zero(evidence: Evidence) -> Finding:
    """Share of the rightly classified images whose input gradient is zero, for cross-entropy or the margin."""
    return Finding(max(_share(evidence, "zero").values(), default=0.0), 0.1, _by_loss(_share(evidence, "zero")))


@check(
    source=_PINTOR + "indicator I1; " + _ATHALYE + "(exploding gradients)",
    meaning="Gradients are NaN or infinite: look for square roots, divisions and logarithms at zero, and for overflow.",
    exempt=(nothing_right,),
)
def gradients_finite(evidence: Evidence) -> Finding:
    """Share of the rightly classified images whose input gradient holds NaN or infinity."""
    return Finding(max(_share(evidence, "broken").values(), default=0.0), 0.0, _by_loss(_share(evidence, "broken")))


@check(
    source=_ATHALYE + "(shattered gradients); Carlini et al. 2019, arXiv 1902.06705, section 5.6",
    meaning="What autograd returns is not the derivative of what the model computes: some operation detaches, replaces "
    "or turns the gradient; find it, or attack with BPDA.",
    exempt=(declared_random, nothing_right),
)
def gradients_match_differences(evidence: Evidence) -> Finding:
    """Error of the margin's gradient against central differences in random directions: three sizes, and near by."""
    with full_float32(evidence.device):
        return _compared_with_differences(evidence)


def _compared_with_differences(evidence: Evidence) -> Finding:
    rows = evidence.correct_rows[:_POINTS]
    model = _double(evidence)
    x, y = evidence.tensors(rows)
    loss_fn, smallest = loss_on_logits(evidence.model, y, margin), _sizes(evidence)[0]
    # A flat patch of an image may lie on a kink as a whole: the neighbours under a max-pooling are equal, and autograd
    # takes one of them. Almost no point near by does, and there the gradient must be the derivative.
    exact = model is not evidence.model
    apart, step = (smallest, 1e-3 * smallest) if exact else (min(30 * smallest, evidence.eps), smallest)
    near = _dithered(evidence, x, apart)
    # The larger sizes are for declared surrogates, whose gradient holds at the attack's scale only.
    trials = [(x, smallest), (near, step), *((x, size) for size in _sizes(evidence)[1:])]
    kind, errors = torch.float64 if exact else x.dtype, []
    for points, size in trials:
        gradient = value_and_grad(loss_fn, points)[0]
        errors.append(_difference_error(evidence, model, points.to(kind), y, gradient.to(kind), size))
        if errors[-1] <= _MISMATCH:
            break
    text = ", ".join(f"{error:.2g}" for error in errors)
    return Finding(min(errors), _MISMATCH, f"at the images, near them, and over larger distances: {text}.")


@check(
    source="Athalye et al. 2018, arXiv 1802.00420, section 4 (attack what is deployed)",
    meaning="`loss_gradient`, which ART's attacks follow, points elsewhere than the model's own gradient: the "
    "classifier overrides or postprocesses it; attack the model through art_sensreg.attacks.differentiable_model.",
    exempt=(declared_random, one_output, nothing_right),
)
def loss_gradient_is_the_models(evidence: Evidence) -> Finding:
    """1 minus the median cosine between the classifier's `loss_gradient` and the gradient of cross-entropy."""
    rows = evidence.correct_rows[:_POINTS]
    x, y = evidence.tensors(rows)
    gradient = value_and_grad(loss_on_logits(evidence.model, y, LOSSES["cross_entropy"]), x)[0].cpu().numpy()
    one_hot = to_categorical(evidence.y[rows], evidence.classifier.nb_classes)
    try:
        own = np.asarray(evidence.classifier.loss_gradient(evidence.x[rows].astype(evidence.array_dtype), one_hot))
    except (ValueError, RuntimeError) as error:
        return Finding(1.0, 0.5, f"loss_gradient raises {type(error).__name__}: {error}.")
    first, second = (array.reshape(len(rows), -1).astype(np.float64) for array in (gradient, own))
    sizes = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    # Where one is zero and the other is not they disagree; where both are, another check speaks.
    apart = (np.linalg.norm(first, axis=1) > 0) != (np.linalg.norm(second, axis=1) > 0)
    comparable = (sizes > 0) | apart
    if not comparable.any():
        return not_applicable("all gradients are zero: see gradients_not_zero.")
    cosine = np.where(sizes > 0, (first * second).sum(axis=1) / np.where(sizes > 0, sizes, 1), 0.0)
    return Finding(float(1 - np.median(cosine[comparable])), 0.5)


@check(
    source=_ATHALYE + "(shattered gradients); Tramer et al. 2020, arXiv 2002.08347, section 3",
    meaning="A step along the gradient does not do what the gradient promises, at the size of an attack's steps: the "
    "loss is jagged there; smooth it (EOT over noise), replace the jagged part (BPDA), or transfer.",
    exempt=(declared_random, nothing_right),
)
def gradients_hold_at_step_size(evidence: Evidence) -> Finding:
    """1 minus the gain of the margin over the promised one, or the inverse, for steps of eps/8 and eps/2."""
    rows = evidence.correct_rows[:_POINTS]
    x, y = evidence.tensors(rows)
    ball = evidence.ball()
    gradient, start, _ = value_and_grad(loss_on_logits(evidence.model, y, margin), x)
    shares = []
    for part in (8, 2):
        moved = torch.clamp(x + ball.eps / part * ball.steepest(gradient), ball.low, ball.high)
        promised = (gradient * (moved - x)).flatten(1).sum(1)
        with torch.no_grad():
            gained = margin(evidence.model(moved), y) - start
        if not bool((promised > 0).any()):
            return not_applicable("the gradient promises nothing: see gradients_not_zero.")
        shares.append(float(gained.sum() / promised.sum().clamp_min(1e-12)))
    text = ", ".join(f"{share:.2g}" for share in shares)
    # Much more than promised is no better: a part of the gradient is missing.
    value = max(1 - min(shares), 1 - 1 / max(shares[0], 1.0))
    return Finding(value, 0.75, f"gained of what was promised, at eps/8 and eps/2: {text}.")


@check(
    source=_PINTOR + "indicator I2 (unstable predictions)",
    meaning="Noise far below eps turns predictions: the model is jagged around its data, and gradients are of no use; "
    "attack it with EOT over noise, or without gradients.",
    exempt=(nothing_right,),
)
def predictions_stable(evidence: Evidence) -> Finding:
    """Share of the rightly classified images that random noise of eps/10 turns, mean of ten draws."""
    rows = evidence.correct_rows
    ball = evidence.ball(evidence.eps / 10)
    x, _ = evidence.tensors(rows)
    generator = evidence.generator("stable")
    draws = [evidence.right(ball.border(x, generator).cpu().numpy(), rows) for _ in range(10)]
    return Finding(1 - float(np.mean(draws)), evidence.widened(0.02, 0.02, len(rows)))


def _share(evidence: Evidence, kind: str) -> dict[str, float]:
    """Share of the images with a zero or a broken gradient, by loss."""
    shares = {}
    rows = evidence.correct_rows[:_POINTS]
    for loss in ("cross_entropy", "margin") if len(rows) else ():
        gradient = _raw_gradient(evidence.model, *evidence.tensors(rows), loss).flatten(1)
        bad = ~torch.isfinite(gradient).all(1) if kind == "broken" else (gradient == 0).all(1)
        shares[loss] = float(bad.float().mean())
    return shares


def _raw_gradient(model: nn.Module, x: torch.Tensor, y: torch.Tensor, loss: str) -> torch.Tensor:
    """The gradient with its NaNs, which attacks replace by zero."""
    leaf = x.clone().requires_grad_(True)
    with torch.enable_grad():
        value = LOSSES[loss](model(leaf), y).sum()
    if not value.requires_grad:
        return torch.zeros_like(leaf)
    (gradient,) = torch.autograd.grad(value, leaf, allow_unused=True)
    return torch.zeros_like(leaf) if gradient is None else gradient.detach()


def _by_loss(shares: dict[str, float]) -> str:
    return ", ".join(f"{name}: {share:.3g}" for name, share in shares.items()) or "no image is classified rightly."


def _double(evidence: Evidence) -> nn.Module:
    """A float64 copy of the model, where differences lose no digits; the model itself if it cannot be copied so."""
    x = evidence.tensors(np.arange(1))[0]
    try:
        model = copy.deepcopy(evidence.model).double()
        with torch.no_grad():
            exact, usual = model(x.double()), evidence.model(x)
    except Exception:  # noqa: BLE001 - a model of one's own may refuse copies or float64 in any way
        return evidence.model
    if not bool(torch.isfinite(usual).all()):
        return evidence.model
    same = torch.allclose(exact.to(usual), usual, rtol=1e-3, atol=1e-3 * float(usual.abs().max()))
    return model if exact.dtype == torch.float64 and same else evidence.model


def _dithered(evidence: Evidence, x: torch.Tensor, size: float) -> torch.Tensor:
    """Images moved by uniform noise of a size in each pixel, reflected at the ends of the range."""
    noise = torch.rand(x.shape, generator=evidence.generator("near"), dtype=torch.float32).to(x).mul_(2).sub_(1)
    low, high = (torch.as_tensor(end, dtype=x.dtype, device=x.device) for end in evidence.clip)
    moved = x + size * noise
    moved = torch.where(moved < low, 2 * low - moved, moved)
    return torch.where(moved > high, 2 * high - moved, moved).clamp(low, high)


def _sizes(evidence: Evidence) -> tuple[float, float, float]:
    return min(1e-3 * evidence.width, evidence.eps / 10), evidence.eps / 4, evidence.eps


def _difference_error(
    evidence: Evidence, model: nn.Module, x: torch.Tensor, y: torch.Tensor, gradient: torch.Tensor, size: float
) -> float:
    """
    How far autograd is from central differences of `size` along eight random directions.

    At the smallest size the median over images of |numeric - autograd| / |numeric|; at larger ones, where curvature
    and the steps of a quantiser count too, 1 minus the cosine of the two over all images and directions.
    """
    generator = evidence.generator("differences")
    numeric, analytic = [], []
    scale = size if evidence.norm == "linf" else size / float(perturbation_norm(torch.ones_like(x[:1]), evidence.norm))
    for _ in range(8):
        direction = torch.randn(x.shape, generator=generator, dtype=torch.float32).to(x).sign()
        with torch.no_grad():
            ahead, behind = (margin(model(x + sign * scale * direction), y) for sign in (1, -1))
        numeric.append((ahead - behind) / (2 * scale))
        analytic.append((gradient * direction).flatten(1).sum(1))
    found, given = torch.stack(numeric, 1), torch.stack(analytic, 1)
    if size > _sizes(evidence)[0]:
        sizes = found.norm() * given.norm()
        return float(1 - (found * given).sum() / sizes) if bool(sizes > 0) else float(bool(found.any() or given.any()))
    of = torch.maximum(found.norm(dim=1), 1e-3 * given.norm(dim=1))
    error = torch.where(of > 0, (found - given).norm(dim=1) / of.clamp_min(1e-30), torch.zeros_like(of))
    return float(error.nan_to_num(nan=float("inf")).median())
