"""Attack a trained defence: every attack on what the cheaper ones left, each outcome stored image by image."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from art_sensreg.benchmark.attacks import ordered
from art_sensreg.benchmark.engine.attack import (
    AttackOutcome,
    AttackStep,
    Resources,
    attack,
    joined,
    noise_accuracy,
    plan_attacks,
)
from art_sensreg.benchmark.engine.context import TrainedRun
from art_sensreg.benchmark.engine.runtime import attempt
from art_sensreg.benchmark.results.entries import AttackRecord, RandomScores
from art_sensreg.benchmark.results.masks import read_mask
from art_sensreg.utils.modes import frozen
from art_sensreg.utils.text import error_text

# Images that are attacked together. Each block has a seed of its own, so that the outcome does not depend on which
# process attacks it.
_BLOCK = 128
# Images on which attacks that search for the smallest perturbation run against a random model, by budget: each query of
# theirs is many passes, and the border that they search for is not in one place.
_MINIMAL_RANDOM = {"smoke": 10, "quick": 10, "full": 100}


def attack_run(run: TrainedRun, progress: Callable[[str], None]) -> None:
    """Attack with all that is not yet stored; `progress` gets the name of each attack before it runs."""
    steps = plan_attacks(run.suite.settings, run.target.views)
    with ExitStack() as stack:
        # Attacks need the gradients of the images alone; those of the weights, which ART computes too, cost time.
        for classifier in (*map(run.target.classifier, run.target.views), *run.surrogates.values()):
            stack.enter_context(frozen(classifier.model))
        for name in ordered(run.suite.settings.attacks, both_views=len(run.target.views) > 1):
            progress(name)
            for step in steps:
                if step.spec.name == name:
                    _run_step(run, step)
    if run.suite.processes.rank == 0:
        _measure_noise(run)


def _run_step(run: TrainedRun, step: AttackStep) -> None:
    """Attack and store, unless that is done; a minimal-norm attack runs again for all sizes if one is lost."""
    store, n = run.suite.store, len(run.suite.dataset.x_test)
    missing = [eps for eps in step.sizes if store.finished(run.record, step.key(eps), n) is None]
    if not run.suite.processes.agree(missing):
        return
    refusal = _refusal(run, step)
    if refusal is not None:
        attacks = [_not_run(step, eps, "not_applicable", refusal) for eps in step.sizes]
        error = None
    else:
        found, error = attempt(partial(_attack, run, step))
        attacks = found if error is None and found is not None else []
    record = run.record
    if error is not None:
        # Some of ART's attacks cannot run through some of ART's preprocessors; that is ART's.
        excused = step.view == "default" and len(run.target.views) > 1 and not run.defence.ours
        status = "not_applicable" if excused else "error"
        attacks = [_not_run(step, eps, status, error_text(error)) for eps in step.sizes]
        record = record if excused else record.failed(step.spec.name, error)
    record = record.with_attacks(attacks)
    if record.status == "error" and all(one.mask or one.status != "error" for one in record.attacks):
        record = replace(record, status="ok", reason="")  # a resumed run has filled what was missing
    store.put(record)


def _refusal(run: TrainedRun, step: AttackStep) -> str | None:
    if step.spec.needs_surrogates and not run.surrogates:
        return "no other model of this seed was trained that could stand in"
    return step.spec.refusal(step.norm, run.suite.dataset.input_shape)


def _not_run(step: AttackStep, eps: float, status: str, reason: str) -> AttackRecord:
    return AttackRecord(
        attack=step.spec.name, norm=step.norm, eps=eps, view=step.view, status=status, seen=0, reason=reason
    )


@dataclass(frozen=True, kw_only=True)
class _Images:
    """Which images an attack is for: `attacked`, what was `left` of them at each size, what is `wanted` of it."""

    attacked: np.ndarray
    left: list[np.ndarray]
    wanted: np.ndarray


def _attack(run: TrainedRun, step: AttackStep) -> list[AttackRecord]:
    images = _images(run, step)
    start = time.perf_counter()
    outcome = _shared_attack(run, step, images.wanted)
    seconds = time.perf_counter() - start
    return [_stored(run, step, number, images, outcome, seconds) for number in range(len(step.sizes))]


def _images(run: TrainedRun, step: AttackStep) -> _Images:
    settings, n = run.suite.settings, len(run.suite.dataset.x_test)
    limit = min(run.target.attackable(n), step.spec.settings[settings.budget].get("points", n))
    if step.spec.minimal_norm and run.target.random is not None:
        limit = min(limit, _MINIMAL_RANDOM[settings.budget])
    attacked = np.arange(n) < limit
    first = run.suite.processes.rank == 0  # the others may see its files late
    left = run.suite.processes.agree([_survivors(run, step, eps) for eps in step.sizes] if first else [])
    # The sizes ascend: what the smallest one left holds what a larger one could still break.
    return _Images(attacked=attacked, left=left, wanted=np.flatnonzero(attacked & left[0]))


def _survivors(run: TrainedRun, step: AttackStep, eps: float) -> np.ndarray:
    """The images classified correctly that no attack before this one broke; if every attack sees all, all of them."""
    left = run.clean.copy()
    if run.suite.settings.all_points:
        return left
    order = ordered(run.suite.settings.attacks, both_views=len(run.target.views) > 1)
    for name in order[: order.index(step.spec.name)]:
        before = run.suite.store.finished(run.record, (name, step.norm, eps, step.view), len(left))
        if before is not None and before.mask is not None:
            left &= read_mask(run.suite.store.out, before.mask)[0]
    return left


def _shared_attack(run: TrainedRun, step: AttackStep, wanted: np.ndarray) -> AttackOutcome:
    """Attack images block by block, each process its part."""
    dataset, processes = run.suite.dataset, run.suite.processes
    resources = Resources(budget=run.suite.settings.budget, dataset=dataset, surrogates=run.surrogates)

    def part() -> list[tuple[int, AttackOutcome]]:
        found = []
        for block in range(processes.rank, -(-len(wanted) // _BLOCK), processes.count):
            rows = wanted[block * _BLOCK : (block + 1) * _BLOCK]
            x, y = dataset.x_test[rows], dataset.y_test[rows]
            draw = (run.name, run.seed, step.spec.name, step.norm, list(step.sizes), step.view, block)
            found.append((block, attack(run.target, x, y, step, resources, draw)))
        return found

    blocks: dict[int, AttackOutcome] = {}
    for found, error in processes.gather(attempt(part)):
        if error is not None:
            raise error
        blocks.update(found)
    return joined([blocks[block] for block in sorted(blocks)], run.target, step)


def _stored(
    run: TrainedRun, step: AttackStep, number: int, images: _Images, outcome: AttackOutcome, seconds: float
) -> AttackRecord:
    """Store the outcome at one size."""
    eps, wanted, left = step.sizes[number], images.wanted, images.left[number]
    robust = left.copy()
    robust[wanted] &= outcome.robust(number)
    seen = np.zeros(len(left), dtype=bool)
    seen[wanted] = True
    suffix = (step.view,) if len(run.target.views) > 1 else ()
    name = run.mask_name(step.spec.name, step.norm, eps, *suffix)
    n = int(images.attacked.sum())
    return AttackRecord(
        attack=step.spec.name,
        norm=step.norm,
        eps=eps,
        view=step.view,
        status="ok",
        robust_accuracy=float(robust[images.attacked].mean()),
        n=n,
        seen=len(wanted),
        seconds=seconds,
        mask=run.suite.store.write_mask(name, robust, images.attacked, seen),
        surrogates=tuple(run.surrogates) if step.spec.needs_surrogates else None,
        random=_random_scores(outcome, number, images),
    )


def _random_scores(outcome: AttackOutcome, number: int, images: _Images) -> RandomScores | None:
    """The accuracy of a random model by one draw and by the mean prediction, over the repeats."""
    single, mean = outcome.scores.single, outcome.scores.mean
    if single is None or mean is None:
        return None
    void, left, n = ~outcome.within[number], images.left[number] & images.attacked, images.attacked.sum()
    others = left.sum() - left[images.wanted].sum()
    one, averaged = ((((correct | void) & left[images.wanted]).sum(axis=1) + others) / n for correct in (single, mean))
    return RandomScores(
        single_draw=float(one.mean()),
        single_draw_spread=float(one.std()),
        mean=float(averaged.mean()),
        mean_spread=float(averaged.std()),
        repeats=len(mean),
    )


def _measure_noise(run: TrainedRun) -> None:
    threats = run.suite.settings.threats
    sizes = [(threat.norm, eps) for threat in threats for eps in threat.eps]
    if [noise.threat for noise in run.record.random_noise or ()] != sizes:
        noise = noise_accuracy(run.target, *run.images(), threats, run.seed)
        run.suite.store.put(replace(run.record, random_noise=noise))
