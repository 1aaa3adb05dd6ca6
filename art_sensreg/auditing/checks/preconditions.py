"""Preconditions: what must hold before the result of any attack means something."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import NormalDist
from typing import Any

import numpy as np
import torch

from art_sensreg.attacks.base.norms import perturbation_norm
from art_sensreg.auditing.context import SAME, Evidence, output_scale
from art_sensreg.auditing.exemptions import declared_random, nothing_right
from art_sensreg.auditing.registry import Finding, check, not_applicable

_ATHALYE = "Athalye et al. 2018, arXiv 1802.00420, "
_CARLINI = "Carlini et al. 2019, arXiv 1902.06705, "
_AUTOATTACK = "Croce and Hein 2020, arXiv 2003.01690, "

# Kernels for other batch sizes round differently; in deep float32 nets that reaches a ten-thousandth of the logits.
_ROUNDING = 1e-3

# The least agreement of answers and labels beyond chance (Cohen's kappa) that counts: less is "slight" at most.
_AGREEMENT = 0.2
# One-sided quantile of 99.9 %: how surely the agreement must be told from that of guessing.
_Z999 = NormalDist().inv_cdf(0.999)


@check(
    source=_CARLINI + "section 4.3",
    meaning="Modules stay in training mode when ART predicts: dropout and batch statistics then disturb every attack; "
    "make the model obey `eval()`.",
)
def eval_mode(evidence: Evidence) -> Finding:
    """Share of the modules that are in training mode while the classifier predicts."""
    model, training = evidence.classifier.model, []
    model.train()  # what training leaves behind
    handles = [
        module.register_forward_pre_hook(
            lambda module, _: training.append(module.training) if module.training else None
        )
        for module in model.modules()
    ]
    try:
        evidence.predict(evidence.x[:2])
    finally:
        for handle in handles:
            handle.remove()
    modules = list(model.modules())
    stuck = sum(module.training for module in modules) + len(training)
    return Finding(min(1.0, stuck / len(modules)), 0.0)


@check(
    source=_CARLINI + "section 5 (report the threat model)",
    meaning="Images are not finite or lie outside of `clip_values`: eps then means something else than it says; "
    "rescale the images or set `clip_values`.",
)
def inputs_in_range(evidence: Evidence) -> Finding:
    """Share of the images with a value that is not finite or outside of `clip_values`."""
    low, high = evidence.clip
    inside = np.isfinite(evidence.x) & (evidence.x >= low - 1e-6) & (evidence.x <= high + 1e-6)
    return Finding(float(1 - inside.reshape(evidence.n, -1).all(axis=1).mean()), 0.0)


@check(
    source=_CARLINI + "section 4.2 (clean accuracy); Landis and Koch 1977, doi 10.2307/2529310 (kappa of at most "
    "0.2: slight)",
    meaning="The model is hardly better than guessing before it is attacked, so that robustness means nothing: look "
    "for labels in another order, images in other units than those of training, a model that was not trained.",
)
def clean_accuracy(evidence: Evidence) -> Finding:
    """1 minus the agreement of answers and labels beyond chance (Cohen's kappa), on the images as they are."""
    answers, n = evidence.outputs.argmax(axis=1), evidence.n
    count = int(max(answers.max(), evidence.y.max())) + 1
    shares = [np.bincount(given, minlength=count) / n for given in (answers, evidence.y)]
    # As many answers of each class, given blindly: for a constant answer it is the share of that class.
    accuracy, chance = float((answers == evidence.y).mean()), float((shares[0] * shares[1]).sum())
    note = f"accuracy {accuracy:.3f}; as many answers of each class, given blindly, would have {chance:.3f}."
    alone = len(np.unique(evidence.y)) == 1
    if alone and not _answers_vary(evidence):
        return Finding(1.0, 1 - _AGREEMENT, "the model answers the same class, whatever comes.")
    if alone:  # the share of that class among the answers is the accuracy itself: take equal shares instead
        chance = 1 / max(evidence.classifier.nb_classes, 2)
    agreement = (accuracy - chance) / (1 - chance)
    deviation = math.sqrt(chance * (1 - chance) / n) if alone else _deviation_if_blind(answers, evidence.y)
    error = _Z999 * deviation / (1 - chance)
    needed = max(_AGREEMENT, min(error, 1.0))
    if alone and agreement >= needed:
        return not_applicable("the points are of one class only: expected points of several classes.")
    if error >= 1 and agreement > 0:
        return not_applicable(f"{n} points are too few to tell the model from guessing.")
    return Finding(1 - agreement, 1 - needed, note)


@check(
    source=_AUTOATTACK + "appendix (checks of the authors' code); Carlini and Wagner 2016, arXiv 1607.04311",
    meaning="The outputs are probabilities, labels, or changed by postprocessing, so that losses on them saturate or "
    "are flat: return the logits, and attack those.",
)
def logits_not_probabilities(evidence: Evidence) -> Finding:
    """Share of the images whose outputs lie in [0, 1], or are not those of the model itself."""
    outputs = evidence.outputs
    if not np.isfinite(outputs).all():
        return Finding(float(1 - np.isfinite(outputs).all(axis=1).mean()), 0.0, "outputs are not finite.")
    bounded = ((outputs >= -1e-6) & (outputs <= 1 + 1e-6)).all(axis=1)
    # A single output that the loss takes for a probability has a logit, which attacks are shown.
    if bounded.all() and outputs.shape[1] > 1 and not evidence.one_probability:
        return Finding(1.0, 0.0, "all outputs lie between 0 and 1.")
    if _saturated(outputs) and not evidence.one_probability:
        return Finding(1.0, 0.0, "most images have the same largest output: it is at its bound.")
    if evidence.declared_random:
        return Finding(0.0, 0.0)
    rows = np.arange(min(64, evidence.n))
    with torch.no_grad():
        values = evidence.model(evidence.tensors(rows)[0])
        logits = (values.softmax(1) if evidence.one_probability else values).cpu().numpy()
    if logits.shape != outputs[rows].shape:
        return Finding(1.0, 0.0, f"`predict` returns shape {outputs[rows].shape}, the model {logits.shape}.")
    # A random model differs from itself too, which is another check's matter: its own spread is the yardstick.
    spread = np.abs(evidence.predict(evidence.x[rows]) - outputs[rows]).max()
    apart = np.abs(logits - outputs[rows]).max(axis=1) > 3 * spread + _ROUNDING * output_scale(outputs)
    return Finding(float(apart.mean()), 0.0, "`predict` returns other values than the model." if apart.any() else "")


@check(
    source=_ATHALYE + "section 3.1; " + _AUTOATTACK + "section 4",
    meaning="The same images give other outputs: one gradient is then noise, and one success luck; wrap the model in "
    "RandomizedClassifier, attack it with EOT, and score with fresh samples.",
)
def deterministic(evidence: Evidence) -> Finding:
    """Largest difference of repeated outputs, over the scale of the outputs."""
    if evidence.declared_random and evidence.random:
        return not_applicable(f"random by declaration, spread {evidence.spread:.2g}: see eot_samples_suffice.")
    return Finding(evidence.spread, SAME)


@check(
    source="Croce et al. 2022, arXiv 2202.13711, section 3; Carlini et al. 2019, arXiv 1902.06705, section 4.3",
    meaning="An image's output depends on the other images of its batch: predict each image alone, or use running "
    "statistics; attacks on batches mean nothing before.",
    exempt=(declared_random,),
)
def batch_independent(evidence: Evidence) -> Finding:
    """Largest difference of outputs at batch size 1, in another order and beside other images, over their scale."""
    few, n = min(8, evidence.n), evidence.n
    together = evidence.predict(evidence.x, batch_size=n)
    turned = evidence.predict(evidence.x[::-1], batch_size=n)[::-1]
    parted = evidence.predict(evidence.x, batch_size=48)
    try:
        alone = evidence.predict(evidence.x[:16], batch_size=1)
    except Exception as error:  # noqa: BLE001 - statistics of one image may be refused in any way
        return Finding(1.0, _ROUNDING, f"one image alone raises {type(error).__name__}: {error}.")
    mirrored = evidence.range[0] + evidence.range[1] - evidence.x[:few]
    beside = evidence.predict(np.concatenate([evidence.x[:few], mirrored]), batch_size=2 * few)[:few]
    pairs = [(turned, together), (parted, together), (alone, together[:16]), (beside, together[:few])]
    worst = max(float(np.abs(first - second).max()) for first, second in pairs)
    value = worst / output_scale(together)
    return Finding(value if np.isfinite(value) else 1.0, _ROUNDING)


@check(
    source=_AUTOATTACK + "appendix (dynamic defences); Croce et al. 2022, arXiv 2202.13711",
    meaning="The model differentiates while it predicts (it optimises its input): attack the optimisation itself, by "
    "BPDA, by unrolling it, or by transfer from the model without it.",
)
def no_autograd_in_forward(evidence: Evidence) -> Finding:
    """Number of derivatives that one prediction takes, backward or forward."""
    with _backward_counted() as calls:
        evidence.predict(evidence.x[:4])
        with torch.enable_grad():
            evidence.model(evidence.tensors(np.arange(min(4, evidence.n)))[0].requires_grad_(True))
    return Finding(float(len(calls)), 0.0)


@check(
    source=_CARLINI + "section 5.5 (accuracy against budget)",
    meaning="An attack with eps 0 changes the accuracy: the model answers otherwise under attack than when it is "
    "scored; look for randomness, or for code that tells the two apart.",
)
def eps_zero_is_clean(evidence: Evidence) -> Finding:
    """Difference of the accuracy under an attack with eps 0 and the clean accuracy."""
    rows = np.arange(evidence.n)
    found = evidence.ascent(rows, "zero", eps=0.0, max_iter=3, eps_step=0.1)
    accuracy = 1 - float(evidence.broken(found, rows).mean())
    clean = float(evidence.clean.mean())
    # Other batches round otherwise, which turns an image that lies on the border itself.
    threshold = evidence.widened(0.0, clean) if evidence.declared_random else 1 / evidence.n
    inside = float((found.margin <= 0).float().mean()) if not evidence.declared_random else accuracy
    return Finding(max(abs(accuracy - clean), abs(inside - clean)), threshold)


@check(
    source=_CARLINI + "section 4.1",
    meaning="The attack's images leave the ball or the range, or are not finite: what it broke does not count; repair "
    "the attack or `clip_values`.",
    exempt=(nothing_right,),
)
def budget_kept(evidence: Evidence) -> Finding:
    """Largest perturbation beyond eps or the range, in shares of eps."""
    rows, found = evidence.correct_rows, evidence.reference.perturbed
    x = evidence.tensors(rows)[0].double()
    perturbed, ball = found.double(), evidence.ball()
    if not bool(torch.isfinite(perturbed).all()):
        return Finding(1.0, 1e-5, "perturbed images are not finite.")
    beyond = float((perturbation_norm(perturbed - x, evidence.norm) - evidence.eps).max())
    outside = float(torch.maximum(ball.low.double() - perturbed, perturbed - ball.high.double()).max())
    return Finding(max(beyond, outside, 0.0) / evidence.eps, 1e-5 + 1e-6 / evidence.eps)


def _deviation_if_blind(answers: np.ndarray, y: np.ndarray) -> float:
    """
    Standard deviation of the accuracy where the same answers are dealt out to the points at random.

    That of a binomial would be far too large where one class is frequent: no deal of few rare answers loses many.

    | Source: Hoeffding 1951, A combinatorial central limit theorem, doi 10.1214/aoms/1177729545
    """
    classes, n = np.union1d(answers, y), len(y)
    given, wanted = ((values[:, None] == classes).mean(axis=0) for values in (answers, y))
    centred = np.eye(len(classes)) - wanted[:, None] - given[None] + given @ wanted
    return float(np.sqrt(given @ centred**2 @ wanted / max(n - 1, 1)))


def _answers_vary(evidence: Evidence) -> bool:
    """Whether the model answers several classes to other images too: the given ones as negatives, and noise."""
    generator = np.random.default_rng(evidence.seed)
    low, width = evidence.range[0], evidence.width
    noise = low + width * generator.random((min(64, 8 * evidence.n), *evidence.x.shape[1:]))
    others = np.concatenate([evidence.x, 2 * low + width - evidence.x, noise]).astype(np.float32)
    return len(np.unique(evidence.predict(others).argmax(axis=1))) > 1


def _saturated(outputs: np.ndarray) -> bool:
    """
    Whether the largest output of most images is the same bound, as that of rescaled probabilities is.

    Log-probabilities have the bound 0 too, and lose nothing there.
    """
    largest = outputs.max(axis=1)
    total = np.exp(outputs.astype(np.float64) - largest[:, None]).sum(axis=1)
    log_probabilities = np.allclose(largest + np.log(total), 0, atol=1e-3)
    near = largest >= largest.max() - 0.01 * (outputs.max() - outputs.min())
    return not log_probabilities and outputs.shape[1] > 1 and len(outputs) >= 20 and bool(near.mean() > 0.5)


@contextmanager
def _backward_counted() -> Iterator[list[int]]:
    """The backward passes started inside; `torch.autograd.grad`, `backward` and `torch.func.grad` share one engine."""
    calls: list[int] = []
    # Forward mode (`torch.func.jvp`) does without it, but not without dual numbers.
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
