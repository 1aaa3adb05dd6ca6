"""Attack health: whether the attack itself worked, regardless of what it found."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import torch
from art.attacks.attack import EvasionAttack
from art.attacks.evasion import SquareAttack

from art_sensreg.attacks.autoattack.attack import OfficialAutoAttack
from art_sensreg.auditing.checks.exemptions import NOTHING_CORRECT, ONE_CLASS
from art_sensreg.auditing.checks.registry import Finding, not_applicable, register_check, skip
from art_sensreg.auditing.context import AuditContext, PgdSettings
from art_sensreg.classifiers import SensRegClassifier

_PINTOR = "Pintor et al. 2022, arXiv 2106.09947, section 3, "
_CARLINI = "Carlini et al. 2019, arXiv 1902.06705, "


@register_check(
    source=_PINTOR + "indicator I3 (silent success)",
    meaning="Attacks pass through adversarial images and return others: look at every iterate, or use attacks that "
    "keep the best (art_sensreg.attacks.ProjectedAscent, AutoAttack).",
    exemptions=(NOTHING_CORRECT,),
)
def no_silent_success(context: AuditContext) -> Finding:
    """Fraction of all images that are adversarial at some step of PGD and no longer at the last."""
    found = context.attacks.reference
    lost = ((found.margin > 0) & (found.last_margin <= 0)).cpu().numpy()
    for _ in range(5 if context.model.is_random else 0):  # one unlucky draw among all steps is no adversarial image
        lost &= context.attacks.succeeds(found, context.model.correct_indices)
    return Finding(float(lost.sum()) / context.inputs.n, context.tolerance(0.01))


@register_check(
    source=_PINTOR + "indicator I4 (incomplete optimisation)",
    meaning="The attack was still making progress when it stopped: give it more steps, or larger ones.",
    exemptions=(NOTHING_CORRECT,),
)
def optimisation_complete(context: AuditContext) -> Finding:
    """Fraction of the margin's gain made in the last tenth of the steps, mean over the images that resist."""
    margins = context.attacks.reference.margins.float()
    steps = len(margins) - 1
    late = margins[-1] - margins[steps - max(1, steps // 10)]
    whole = margins[-1] - margins[0]
    left = margins[-1] <= 0
    counted = left & (whole > 0)
    if not bool(left.any()):
        return not_applicable("the attack succeeds on every image: none is left to gain on.")
    if not bool(counted.any()):
        return not_applicable("the attack raises no image's margin: see gradients_not_zero.")
    return Finding(float((late[counted] / whole[counted]).mean()), 0.15)


@register_check(
    source=_CARLINI + "section 5.5 (an unbounded attack must reach 0 %)",
    meaning="Even an attack that may change every pixel freely fails on some images, so its gradients are useless or "
    "its optimisation is stuck: what it does not find within eps means nothing.",
    exemptions=(NOTHING_CORRECT,),
)
def unconstrained_attack_succeeds(context: AuditContext) -> Finding:
    """Accuracy under an attack whose ball contains all images."""
    eps = context.threat.large_eps(1.0)
    plan = (("cross_entropy", "inside"), ("logits_ratio", "inside"), ("margin", "border"), ("margin", "inside"))
    attacks = [
        PgdSettings(("free", restart), loss, start, eps, max_iter=100, eps_step=2.5 * eps / 100)
        for restart, (loss, start) in enumerate(plan)
    ]
    left = context.attacks.resisting(context.model.correct_indices, *attacks)
    return Finding(len(left) / context.inputs.n, max(0.005, 1.5 / context.inputs.n))


@register_check(
    source=_CARLINI + "section 5.4 (the attack must have converged)",
    meaning="Twice as many steps find more, so the attack had not converged: raise `max_iter` until it changes "
    "nothing.",
    exemptions=(NOTHING_CORRECT,),
)
def more_steps_gain_little(context: AuditContext) -> Finding:
    """Fraction of all images on which the same attack succeeds with twice as many steps only."""
    steps, eps_step = 2 * context.inputs.effort.steps, _usual_step(context)
    gain = context.attacks.gain(
        PgdSettings(("doubled", "cross_entropy"), max_iter=steps, eps_step=eps_step),
        PgdSettings(("doubled", "logits_ratio"), "logits_ratio", max_iter=steps, eps_step=eps_step / 2),
    )
    return Finding(gain, context.tolerance(0.005))


@register_check(
    source=_CARLINI + "section 5.4; Mosbach et al. 2018, arXiv 1810.12042",
    meaning="Random restarts find more, so the loss has many local maxima: raise the number of restarts until it "
    "changes nothing.",
    exemptions=(NOTHING_CORRECT,),
)
def more_restarts_gain_little(context: AuditContext) -> Finding:
    """Fraction of all images on which further random restarts succeed."""
    attacks = [
        PgdSettings(("restart", restart), "logits_ratio" if restart % 2 else "cross_entropy")
        for restart in range(context.inputs.effort.restarts)
    ]
    return Finding(context.attacks.gain(*attacks), context.tolerance(0.01))


@register_check(
    source=_CARLINI + "section 5.4 (try several step sizes)",
    meaning="Another step size finds more: tune `eps_step`, or use an attack that adapts it (APGD).",
    exemptions=(NOTHING_CORRECT,),
)
def step_size_matters_little(context: AuditContext) -> Finding:
    """Fraction of all images on which steps a quarter, twice or four times as large succeed."""
    step = _usual_step(context)
    attacks = [PgdSettings(("step", f"{factor:g}"), eps_step=factor * step) for factor in (0.25, 2.0, 4.0)]
    return Finding(context.attacks.gain(*attacks), context.tolerance(0.01))


@register_check(
    source="Athalye et al. 2018, arXiv 1802.00420, section 3.1 (one-step attacks perform better)",
    meaning="A single step succeeds where the iterative attack did not: gradients mislead it after the first step "
    "(gradient masking).",
    exemptions=(NOTHING_CORRECT,),
)
def iterative_beats_one_step(context: AuditContext) -> Finding:
    """Fraction of all images on which one step of size eps succeeds, on cross-entropy or the margin."""
    attacks = [
        PgdSettings(("one step",), loss, "none", max_iter=1, eps_step=context.threat.eps)
        for loss in ("cross_entropy", "margin")
    ]
    return Finding(context.attacks.gain(*attacks), context.tolerance(0.0))


@register_check(
    source="Athalye et al. 2018, arXiv 1802.00420, section 3.1 (black-box attacks are better than white-box ones)",
    meaning="An attack that sees nothing but outputs succeeds where gradients did not: they are masked; find out "
    "where, and attack around it (BPDA, EOT, transfer).",
    exemptions=(NOTHING_CORRECT,),
)
def white_box_beats_black_box(context: AuditContext) -> Finding:
    """Fraction of all images on which the black-box Square attack succeeds."""
    attack = _square(context)
    return attack if isinstance(attack, Finding) else Finding(context.attacks.gain(attack), context.tolerance(0.0))


@register_check(
    source="Athalye et al. 2018, arXiv 1802.00420, section 3.1 (random sampling finds adversarial examples)",
    meaning="Random points of the ball are misclassified where the gradient attack found none: gradients are masked.",
    exemptions=(NOTHING_CORRECT,),
)
def random_search_finds_nothing(context: AuditContext) -> Finding:
    """Fraction of all images for which a random point of the ball or its border is misclassified."""
    generator, ball = context.inputs.generator("search"), context.threat.ball()

    def inside(indices: np.ndarray) -> np.ndarray:
        return _array(ball.inside(context.model.tensors(indices)[0], generator))

    def border(indices: np.ndarray) -> np.ndarray:
        return _array(ball.border(context.model.tensors(indices)[0], generator))

    draws = max(10, context.inputs.effort.queries // 6)
    attacks = [border if draw % 2 else inside for draw in range(draws)]
    return Finding(context.attacks.gain(*attacks), context.tolerance(0.0))


@register_check(
    source="Athalye et al. 2018, arXiv 1802.00420, section 3.1; Carlini et al. 2019, arXiv 1902.06705, section 5.5",
    meaning="The accuracy is higher at a larger eps, so the attack does not optimise: look at its loss over the steps.",
    exemptions=(NOTHING_CORRECT,),
)
def accuracy_falls_with_eps(context: AuditContext) -> Finding:
    """Largest rise of the accuracy from one size to the next, at eps times 1/4, 1/2, 1, 2 and 4."""
    indices, largest = context.model.correct_indices, context.threat.large_eps(1.0)
    accuracies = []
    for factor in (0.25, 0.5, 1.0, 2.0, 4.0):
        eps = min(factor * context.threat.eps, largest)
        left = context.attacks.resisting(indices, PgdSettings(("curve", f"{factor:g}"), eps=eps, max_iter=20))
        accuracies.append(len(left) / context.inputs.n)
    rise = max(after - before for before, after in pairwise(accuracies))
    text = ", ".join(f"{accuracy:.3f}" for accuracy in accuracies)
    return Finding(max(rise, 0.0), context.tolerance(0.005, max(accuracies)), f"accuracies: {text}.")


@register_check(
    source="Athalye et al. 2018, arXiv 1802.00420, section 3.1 (unbounded attacks reach 100 % success)",
    meaning="The accuracy is above chance where every image can be turned grey: the attack fails for a reason of its "
    "own.",
    exemptions=(NOTHING_CORRECT, ONE_CLASS),
)
def chance_at_large_eps(context: AuditContext) -> Finding:
    """Accuracy under an attack whose ball contains a grey image, against the share of the most frequent class."""
    eps, steps = context.threat.large_eps(0.5), 2 * context.inputs.effort.steps
    attacks = [
        PgdSettings(("grey", loss), loss, eps=eps, max_iter=steps)
        for loss in ("cross_entropy", "logits_ratio", "margin")
    ]
    left = context.attacks.resisting(context.model.correct_indices, *attacks)
    chance = float(np.bincount(context.inputs.y).max()) / context.inputs.n
    return Finding(len(left) / context.inputs.n, chance + context.tolerance(0.0, chance))


def _usual_step(context: AuditContext) -> float:
    """Step size of the reference attack."""
    return 2.5 * context.threat.eps / context.inputs.effort.steps


def _array(images: torch.Tensor) -> np.ndarray:
    return images.to("cpu", torch.float32).numpy()


def _square(context: AuditContext) -> EvasionAttack | Finding:
    """The Square attack in the norm of the audit, or why there is none."""
    classifier, norm, eps = context.inputs.classifier, context.threat.norm, context.threat.eps
    queries = context.inputs.effort.queries
    if classifier.clip_values is None or context.model.one_output:
        return not_applicable("the Square attack needs `clip_values` and one output per class.")
    if context.model.array_dtype == np.float64 and not isinstance(classifier, SensRegClassifier):
        return not_applicable("ART's Square attack makes float32 images, which this classifier does not accept.")
    if norm != "l1":
        if context.inputs.x.ndim != 4:
            return not_applicable("the Square attack is for images (n, channels, height, width).")
        order = np.inf if norm == "linf" else 2
        return SquareAttack(classifier, norm=order, eps=eps, max_iter=queries, batch_size=256, verbose=False)
    if find_spec("pyautoattack") is None:
        return skip("the Square attack in L1 needs pyautoattack: install art_sensreg[bench].")
    return OfficialAutoAttack(
        classifier, norm=1, eps=eps, attacks=("square",), nb_queries=queries, seed=context.inputs.seed
    )
