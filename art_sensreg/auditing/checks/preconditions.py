"""Preconditions: what must hold for the result of any attack to be meaningful."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import NormalDist
from typing import Any

import numpy as np
import torch

from art_sensreg.attacks.base.norms import perturbation_norm
from art_sensreg.auditing.checks.exemptions import DECLARED_RANDOM, NOTHING_CORRECT
from art_sensreg.auditing.checks.registry import Finding, not_applicable, register_check
from art_sensreg.auditing.context import AuditContext, PgdSettings
from art_sensreg.auditing.context.audited_model import SAME_OUTPUTS, output_scale
from art_sensreg.utils.text import error_text

_ATHALYE = "Athalye et al. 2018, arXiv 1802.00420, "
_CARLINI = "Carlini et al. 2019, arXiv 1902.06705, "
_AUTOATTACK = "Croce and Hein 2020, arXiv 2003.01690, "

# Kernels for other batch sizes round differently; in deep float32 networks that reaches 1e-4 of the logits.
_ROUNDING = 1e-3

# The smallest chance-corrected agreement (Cohen's kappa) that counts: up to this value it is called "slight".
_AGREEMENT = 0.2
# One-sided 99.9 % quantile: the confidence with which a model must be better than guessing.
_Z999 = NormalDist().inv_cdf(0.999)


@register_check(
    source=_CARLINI + "section 4.3",
    meaning="Modules stay in training mode when ART predicts, so that dropout and batch statistics disturb every "
    "attack: make the model obey `eval()`.",
)
def eval_mode(context: AuditContext) -> Finding:
    """Fraction of the modules that are in training mode while the classifier predicts."""
    model, training = context.inputs.classifier.model, []
    model.train()  # as training leaves it
    handles = [
        module.register_forward_pre_hook(
            lambda module, _: training.append(module.training) if module.training else None
        )
        for module in model.modules()
    ]
    try:
        context.model.predict(context.inputs.x[:2])
    finally:
        for handle in handles:
            handle.remove()
    modules = list(model.modules())
    stuck = sum(module.training for module in modules) + len(training)
    return Finding(min(1.0, stuck / len(modules)), 0.0)


@register_check(
    source=_CARLINI + "section 5 (report the threat model)",
    meaning="Images are not finite or lie outside `clip_values`, so that eps does not mean what it says: rescale the "
    "images or set `clip_values`.",
)
def inputs_in_range(context: AuditContext) -> Finding:
    """Fraction of the images with a value that is not finite or lies outside `clip_values`."""
    (low, high), x = context.threat.clip, context.inputs.x
    inside = np.isfinite(x) & (x >= low - 1e-6) & (x <= high + 1e-6)
    return Finding(float(1 - inside.reshape(len(x), -1).all(axis=1).mean()), 0.0)


@register_check(
    source=_CARLINI + "section 4.2 (clean accuracy); Landis and Koch 1977, doi 10.2307/2529310 (kappa of at most "
    "0.2: slight)",
    meaning="The model is hardly better than guessing even without an attack, so that robustness means nothing: look "
    "for labels in another order, images in other units than in training, or an untrained model.",
)
def clean_accuracy(context: AuditContext) -> Finding:
    """1 minus the chance-corrected agreement of predictions and labels (Cohen's kappa) on the clean images."""
    y, n = context.inputs.y, context.inputs.n
    predicted = context.model.outputs.argmax(axis=1)
    count = int(max(predicted.max(), y.max())) + 1
    shares = [np.bincount(classes, minlength=count) / n for classes in (predicted, y)]
    # The accuracy of blind guessing at the same class frequencies: for a constant model, the share of its class.
    accuracy, chance = float((predicted == y).mean()), float((shares[0] * shares[1]).sum())
    note = f"accuracy {accuracy:.3f}; as many predictions of each class, made blindly, would reach {chance:.3f}."
    one_class = len(np.unique(y)) == 1
    if one_class and not _predictions_vary(context):
        return Finding(1.0, 1 - _AGREEMENT, "the model predicts the same class for every input.")
    if one_class:  # the share of that class among the predictions is the accuracy itself: take equal shares instead
        chance = 1 / max(context.inputs.classifier.nb_classes, 2)
    agreement = (accuracy - chance) / (1 - chance)
    deviation = math.sqrt(chance * (1 - chance) / n) if one_class else deviation_if_blind(predicted, y)
    error = _Z999 * deviation / (1 - chance)
    needed = max(_AGREEMENT, min(error, 1.0))
    if one_class and agreement >= needed:
        return not_applicable("all points are of one class; expected points of several classes.")
    if error >= 1 and agreement > 0:
        return not_applicable(f"{n} points are too few to tell the model from guessing.")
    return Finding(1 - agreement, 1 - needed, note)


@register_check(
    source=_AUTOATTACK + "appendix (checks of the authors' code); Carlini and Wagner 2016, arXiv 1607.04311",
    meaning="The outputs are probabilities or labels, or are changed by postprocessing, so that losses computed from "
    "them saturate or are flat: return the logits, and attack those.",
)
def logits_not_probabilities(context: AuditContext) -> Finding:
    """Fraction of the images whose outputs lie in [0, 1], or differ from those of the model itself."""
    model, outputs = context.model, context.model.outputs
    if not np.isfinite(outputs).all():
        return Finding(float(1 - np.isfinite(outputs).all(axis=1).mean()), 0.0, "outputs are not finite.")
    bounded = ((outputs >= -1e-6) & (outputs <= 1 + 1e-6)).all(axis=1)
    # A single output that the loss treats as a probability has a logit, which is what attacks see.
    if bounded.all() and outputs.shape[1] > 1 and not model.one_probability:
        return Finding(1.0, 0.0, "all outputs lie between 0 and 1.")
    if _saturated(outputs) and not model.one_probability:
        return Finding(1.0, 0.0, "the largest output is the same bound for most images.")
    if model.declared_random:
        return Finding(0.0, 0.0)
    indices = np.arange(min(64, context.inputs.n))
    with torch.no_grad():
        values = model.module(model.tensors(indices)[0])
        logits = (values.softmax(1) if model.one_probability else values).cpu().numpy()
    if logits.shape != outputs[indices].shape:
        return Finding(1.0, 0.0, f"`predict` returns shape {outputs[indices].shape}, the model {logits.shape}.")
    # A random model differs from itself too, which another check covers: here its own spread is the yardstick.
    spread = np.abs(model.predict(context.inputs.x[indices]) - outputs[indices]).max()
    differs = np.abs(logits - outputs[indices]).max(axis=1) > 3 * spread + _ROUNDING * output_scale(outputs)
    note = "`predict` returns other values than the model." if differs.any() else ""
    return Finding(float(differs.mean()), 0.0, note)


@register_check(
    source=_ATHALYE + "section 3.1; " + _AUTOATTACK + "section 4",
    meaning="Repeated predictions on the same images differ, so that a single gradient is noise and a single success "
    "luck: wrap the model in RandomizedClassifier, attack it with EOT, and score with fresh samples.",
)
def deterministic(context: AuditContext) -> Finding:
    """Largest difference between repeated outputs on the same images, relative to the scale of the outputs."""
    spread = context.model.output_spread
    if context.model.declared_random and context.model.is_random:
        return not_applicable(f"random by declaration, spread {spread:.2g}: see eot_samples_suffice.")
    return Finding(spread, SAME_OUTPUTS)


@register_check(
    source="Croce et al. 2022, arXiv 2202.13711, section 3; Carlini et al. 2019, arXiv 1902.06705, section 4.3",
    meaning="An image's output depends on the other images in its batch, so that attacks on batches mean nothing: "
    "predict each image alone, or use running statistics.",
    exemptions=(DECLARED_RANDOM,),
)
def batch_independent(context: AuditContext) -> Finding:
    """Largest change of outputs at batch size 1, in another order or beside other images, relative to their scale."""
    x, n, predict = context.inputs.x, context.inputs.n, context.model.predict
    few = min(8, n)
    together = predict(x, batch_size=n)
    reversed_order = predict(x[::-1], batch_size=n)[::-1]
    split = predict(x, batch_size=48)
    try:
        alone = predict(x[:16], batch_size=1)
    except Exception as error:  # noqa: BLE001 - a model may refuse the statistics of one image in any way
        return Finding(1.0, _ROUNDING, f"a single image raises {error_text(error)}.")
    negatives = context.threat.range[0] + context.threat.range[1] - x[:few]
    beside_negatives = predict(np.concatenate([x[:few], negatives]), batch_size=2 * few)[:few]
    pairs = (
        (reversed_order, together),
        (split, together),
        (alone, together[:16]),
        (beside_negatives, together[:few]),
    )
    worst = max(float(np.abs(first - second).max()) for first, second in pairs)
    value = worst / output_scale(together)
    return Finding(value if np.isfinite(value) else 1.0, _ROUNDING)


@register_check(
    source=_AUTOATTACK + "appendix (dynamic defences); Croce et al. 2022, arXiv 2202.13711",
    meaning="The model differentiates while it predicts (it optimises its input): attack that optimisation itself, by "
    "BPDA, by unrolling it, or by transfer from the model without it.",
)
def no_autograd_in_forward(context: AuditContext) -> Finding:
    """Number of derivatives that one prediction takes, in backward or forward mode."""
    model = context.model
    with _derivatives_counted() as calls:
        model.predict(context.inputs.x[:4])
        with torch.enable_grad():
            model.module(model.tensors(np.arange(min(4, context.inputs.n)))[0].requires_grad_(True))
    return Finding(float(len(calls)), 0.0)


@register_check(
    source=_CARLINI + "section 5.5 (accuracy against budget)",
    meaning="An attack with eps 0 changes the accuracy, so the model behaves differently when it is attacked than when "
    "it is scored: look for randomness, or for code that tells the two apart.",
)
def eps_zero_is_clean(context: AuditContext) -> Finding:
    """Difference between the accuracy under an attack with eps 0 and the clean accuracy."""
    indices, random = np.arange(context.inputs.n), context.model.declared_random
    found = context.attacks.pgd(indices, PgdSettings(("zero",), eps=0.0, max_iter=3, eps_step=0.1))
    accuracy = 1 - float(context.attacks.succeeds(found, indices).mean())
    clean = float(context.model.correct.mean())
    # Other batch sizes round differently, which flips an image that lies exactly on the decision boundary.
    threshold = context.tolerance(0.0, clean) if random else 1 / context.inputs.n
    inside = accuracy if random else float((found.margin <= 0).float().mean())
    return Finding(max(abs(accuracy - clean), abs(inside - clean)), threshold)


@register_check(
    source=_CARLINI + "section 4.1",
    meaning="Adversarial images leave the ball or the range, or are not finite, so that successes do not count: repair "
    "the attack or `clip_values`.",
    exemptions=(NOTHING_CORRECT,),
)
def budget_kept(context: AuditContext) -> Finding:
    """Largest excess of a perturbation over eps, or of a pixel over the range, relative to eps."""
    threat, ball = context.threat, context.threat.ball()
    x = context.model.tensors(context.model.correct_indices)[0].double()
    perturbed = context.attacks.reference.perturbed.double()
    if not bool(torch.isfinite(perturbed).all()):
        return Finding(1.0, 1e-5, "perturbed images are not finite.")
    beyond = float((perturbation_norm(perturbed - x, threat.norm) - threat.eps).max())
    outside = float(torch.maximum(ball.low.double() - perturbed, perturbed - ball.high.double()).max())
    return Finding(max(beyond, outside, 0.0) / threat.eps, 1e-5 + 1e-6 / threat.eps)


def deviation_if_blind(predicted: np.ndarray, y: np.ndarray) -> float:
    """
    Standard deviation of the accuracy if the same predictions are assigned to the points at random.

    That of a binomial would be far too large if one class is frequent: permuting few rare predictions loses few points.

    | Source: Hoeffding 1951, A combinatorial central limit theorem, doi 10.1214/aoms/1177729545
    """
    classes, n = np.union1d(predicted, y), len(y)
    given, wanted = ((values[:, None] == classes).mean(axis=0) for values in (predicted, y))
    centred = np.eye(len(classes)) - wanted[:, None] - given[None] + given @ wanted
    return float(np.sqrt(given @ centred**2 @ wanted / max(n - 1, 1)))


def _predictions_vary(context: AuditContext) -> bool:
    """Whether the model also predicts several classes on other images: negatives of the given ones, and noise."""
    x, low, width = context.inputs.x, context.threat.range[0], context.threat.width
    generator = np.random.default_rng(context.inputs.seed)
    noise = low + width * generator.random((min(64, 8 * len(x)), *x.shape[1:]))
    others = np.concatenate([x, 2 * low + width - x, noise]).astype(np.float32)
    return len(np.unique(context.model.predict(others).argmax(axis=1))) > 1


def _saturated(outputs: np.ndarray) -> bool:
    """
    Whether the largest output is the same bound for most images, as it is for rescaled probabilities.

    Log-probabilities are bounded by 0 too, but lose nothing there.
    """
    largest = outputs.max(axis=1)
    total = np.exp(outputs.astype(np.float64) - largest[:, None]).sum(axis=1)
    log_probabilities = np.allclose(largest + np.log(total), 0, atol=1e-3)
    near = largest >= largest.max() - 0.01 * (outputs.max() - outputs.min())
    return not log_probabilities and outputs.shape[1] > 1 and len(outputs) >= 20 and bool(near.mean() > 0.5)


@contextmanager
def _derivatives_counted() -> Iterator[list[int]]:
    """Count the derivatives taken inside: `torch.autograd.grad`, `backward` and `torch.func.grad` share one engine."""
    calls: list[int] = []
    # Forward mode (`torch.func.jvp`) does not use that engine, but needs dual numbers.
    places = [(torch.autograd, "_engine_run_backward"), (torch.autograd.forward_ad, "make_dual")]
    originals = [(owner, name, getattr(owner, name)) for owner, name in places]

    def counting(original: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            return original(*args, **kwargs)

        return counted

    for owner, name, original in originals:
        setattr(owner, name, counting(original))
    try:
        yield calls
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)
