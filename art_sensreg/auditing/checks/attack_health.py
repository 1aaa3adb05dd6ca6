"""Attack health: whether the attack itself worked, whatever it found."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from art.attacks.attack import EvasionAttack
from art.attacks.evasion import SquareAttack

from art_sensreg.attacks.autoattack.attack import OfficialAutoAttack
from art_sensreg.auditing.context import Evidence
from art_sensreg.auditing.exemptions import nothing_right, one_class
from art_sensreg.auditing.registry import Finding, check, not_applicable, skip
from art_sensreg.classifiers import SensRegClassifier

_PINTOR = "Pintor et al. 2022, arXiv 2106.09947, section 3, "
_CARLINI = "Carlini et al. 2019, arXiv 1902.06705, "


@check(
    source=_PINTOR + "indicator I3 (silent success)",
    meaning="Attacks pass through adversarial images and return others: count every iterate, or use attacks that keep "
    "the best (art_sensreg.attacks.ProjectedAscent, AutoAttack).",
    exempt=(nothing_right,),
)
def no_silent_success(evidence: Evidence) -> Finding:
    """Share of all images that were adversarial on the way of PGD and are not at its end."""
    found = evidence.reference
    lost = ((found.margin > 0) & (found.last_margin <= 0)).cpu().numpy()
    for _ in range(5 if evidence.random else 0):  # one unlucky draw among all steps is no adversarial image
        lost &= evidence.broken(found, evidence.correct_rows)
    return Finding(float(lost.sum()) / evidence.n, evidence.widened(0.01))


@check(
    source=_PINTOR + "indicator I4 (incomplete optimisation)",
    meaning="The attack was still gaining when it stopped: give it more steps, or larger ones.",
    exempt=(nothing_right,),
)
def optimisation_complete(evidence: Evidence) -> Finding:
    """Share of the attack's gain in margin that its last tenth brought, mean over the images that it did not break."""
    margins = evidence.reference.margins.float()
    steps = len(margins) - 1
    late = margins[-1] - margins[steps - max(1, steps // 10)]
    whole = margins[-1] - margins[0]
    left = margins[-1] <= 0
    counted = left & (whole > 0)
    if not bool(left.any()):
        return not_applicable("the attack broke every image: none was left to gain on.")
    if not bool(counted.any()):
        return not_applicable("the attack raised no image's margin: see gradients_not_zero.")
    return Finding(float((late[counted] / whole[counted]).mean()), 0.15)


@check(
    source=_CARLINI + "section 5.5 (an unbounded attack must reach 0 %)",
    meaning="Even an attack that may change every pixel freely fails on some images: its gradients are useless, or its "
    "optimisation is stuck; nothing that it does not find within eps counts.",
    exempt=(nothing_right,),
)
def unconstrained_attack_succeeds(evidence: Evidence) -> Finding:
    """Accuracy under an attack whose ball holds all images."""
    eps, left = evidence.large_eps(1.0), evidence.correct_rows
    plan = [("cross_entropy", "inside"), ("logits_ratio", "inside"), ("margin", "border"), ("margin", "inside")]
    for restart, (loss, start) in enumerate(plan):
        if len(left):
            step = 2.5 * eps / 100
            found = evidence.ascent(left, "free", restart, eps=eps, loss=loss, max_iter=100, eps_step=step, start=start)
            left = left[~evidence.broken(found, left)]
    return Finding(len(left) / evidence.n, max(0.005, 1.5 / evidence.n))


@check(
    source=_CARLINI + "section 5.4 (the attack must have converged)",
    meaning="Twice the steps break more: the attack had not converged; raise `max_iter` until it changes nothing.",
    exempt=(nothing_right,),
)
def more_steps_gain_little(evidence: Evidence) -> Finding:
    """Share of all images that the same attack breaks with twice the steps and did not before."""

    def doubled(loss: str, step: float) -> Any:
        steps = 2 * evidence.effort.steps
        return lambda rows: evidence.ascent(rows, "doubled", loss, loss=loss, max_iter=steps, eps_step=step)

    step = 2.5 * evidence.eps / evidence.effort.steps
    gain = evidence.gain(doubled("cross_entropy", step), doubled("logits_ratio", step / 2))
    return Finding(gain, evidence.widened(0.005))


@check(
    source=_CARLINI + "section 5.4; Mosbach et al. 2018, arXiv 1810.12042",
    meaning="Random restarts break more: the loss has many local maxima; raise the number of restarts until it changes "
    "nothing.",
    exempt=(nothing_right,),
)
def more_restarts_gain_little(evidence: Evidence) -> Finding:
    """Share of all images that further random restarts break."""
    attempts = [
        lambda rows, restart=restart: evidence.ascent(
            rows, "restart", restart, loss="logits_ratio" if restart % 2 else "cross_entropy"
        )
        for restart in range(evidence.effort.restarts)
    ]
    return Finding(evidence.gain(*attempts), evidence.widened(0.01))


@check(
    source=_CARLINI + "section 5.4 (try several step sizes)",
    meaning="Another step size breaks more: tune `eps_step`, or use an attack that adapts it (APGD).",
    exempt=(nothing_right,),
)
def step_size_matters_little(evidence: Evidence) -> Finding:
    """Share of all images that steps a quarter, twice and four times as large break."""
    step, steps = 2.5 * evidence.eps / evidence.effort.steps, evidence.effort.steps
    attempts = [
        lambda rows, factor=factor: evidence.ascent(rows, "step", f"{factor:g}", max_iter=steps, eps_step=factor * step)
        for factor in (0.25, 2.0, 4.0)
    ]
    return Finding(evidence.gain(*attempts), evidence.widened(0.01))


@check(
    source="Athalye et al. 2018, arXiv 1802.00420, section 3.1 (one-step attacks perform better)",
    meaning="One step breaks what the iterated attack did not: gradients lead astray after the first step (masking).",
    exempt=(nothing_right,),
)
def iterative_beats_one_step(evidence: Evidence) -> Finding:
    """Share of all images that one step of eps breaks, on cross-entropy or the margin, and the attack did not."""
    attempts = [
        lambda rows, loss=loss: evidence.ascent(
            rows, "one step", loss=loss, max_iter=1, eps_step=evidence.eps, start="none"
        )
        for loss in ("cross_entropy", "margin")
    ]
    return Finding(evidence.gain(*attempts), evidence.widened(0.0))


@check(
    source="Athalye et al. 2018, arXiv 1802.00420, section 3.1 (black-box attacks are better than white-box ones)",
    meaning="An attack that sees outputs only breaks what gradients did not: gradients are masked; find out where, and "
    "attack around it (BPDA, EOT, transfer).",
    exempt=(nothing_right,),
)
def white_box_beats_black_box(evidence: Evidence) -> Finding:
    """Share of all images that the Square attack breaks and the attack by gradient did not."""
    attack = _square(evidence)
    if isinstance(attack, Finding):
        return attack
    return Finding(evidence.gain(evidence.generated(attack)), evidence.widened(0.0))


@check(
    source="Athalye et al. 2018, arXiv 1802.00420, section 3.1 (random sampling finds adversarial examples)",
    meaning="Random points of the ball are misclassified where the attack by gradient found none: it is masked.",
    exempt=(nothing_right,),
)
def random_search_finds_nothing(evidence: Evidence) -> Finding:
    """Share of all images that random points of the ball or of its border break."""
    generator, ball = evidence.generator("search"), evidence.ball()

    def draw(rows: np.ndarray, start: str) -> np.ndarray:
        images: torch.Tensor = getattr(ball, start)(evidence.tensors(rows)[0], generator)
        return images.to("cpu", torch.float32).numpy()

    draws = max(10, evidence.effort.queries // 6)
    attempts = [lambda rows, i=i: draw(rows, "border" if i % 2 else "inside") for i in range(draws)]
    return Finding(evidence.gain(*attempts), evidence.widened(0.0))


@check(
    source="Athalye et al. 2018, arXiv 1802.00420, section 3.1; Carlini et al. 2019, arXiv 1902.06705, section 5.5",
    meaning="A larger eps leaves the accuracy higher: the attack does not optimise; look at its loss over the steps.",
    exempt=(nothing_right,),
)
def accuracy_falls_with_eps(evidence: Evidence) -> Finding:
    """Largest rise of the accuracy from one size to the next, of eps times 1/4, 1/2, 1, 2 and 4."""
    rows, largest = evidence.correct_rows, evidence.large_eps(1.0)
    accuracies = []
    for factor in (0.25, 0.5, 1.0, 2.0, 4.0):
        size = min(factor * evidence.eps, largest)
        found = evidence.ascent(rows, "curve", f"{factor:g}", eps=size, max_iter=20)
        accuracies.append((len(rows) - float(evidence.broken(found, rows).sum())) / evidence.n)
    rise = max(after - before for before, after in pairwise(accuracies))
    text = ", ".join(f"{accuracy:.3f}" for accuracy in accuracies)
    return Finding(max(rise, 0.0), evidence.widened(0.005, max(accuracies)), f"accuracies: {text}.")


@check(
    source="Athalye et al. 2018, arXiv 1802.00420, section 3.1 (unbounded attacks reach 100 % success)",
    meaning="Above chance where every image can be made grey: the attack fails for a reason of its own.",
    exempt=(nothing_right, one_class),
)
def chance_at_large_eps(evidence: Evidence) -> Finding:
    """Accuracy under an attack whose ball holds the grey image, against the share of the most frequent class."""
    eps, left = evidence.large_eps(0.5), evidence.correct_rows
    for loss in ("cross_entropy", "logits_ratio", "margin"):
        if len(left):
            found = evidence.ascent(left, "grey", loss, eps=eps, loss=loss, max_iter=2 * evidence.effort.steps)
            left = left[~evidence.broken(found, left)]
    chance = float(np.bincount(evidence.y).max()) / evidence.n
    return Finding(len(left) / evidence.n, chance + evidence.widened(0.0, chance))


def _square(evidence: Evidence) -> EvasionAttack | Finding:
    """The Square attack in the norm of the audit, or why there is none."""
    queries = evidence.effort.queries
    if evidence.classifier.clip_values is None or evidence.one_output:
        return not_applicable("the Square attack needs `clip_values`, and an output for each class.")
    if evidence.array_dtype == np.float64 and not isinstance(evidence.classifier, SensRegClassifier):
        return not_applicable("ART's Square attack makes float32 images, which this classifier does not take.")
    if evidence.norm != "l1":
        norm = np.inf if evidence.norm == "linf" else 2
        if evidence.x.ndim != 4:
            return not_applicable("the Square attack is for images (n, channels, height, width).")
        return SquareAttack(
            evidence.classifier, norm=norm, eps=evidence.eps, max_iter=queries, batch_size=256, verbose=False
        )
    if find_spec("pyautoattack") is None:
        return skip("the Square attack in L1 needs pyautoattack: install art_sensreg[bench].")
    return OfficialAutoAttack(
        evidence.classifier, norm=1, eps=evidence.eps, attacks=("square",), nb_queries=queries, seed=evidence.seed
    )
