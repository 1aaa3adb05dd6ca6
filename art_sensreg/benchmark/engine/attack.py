"""Attack one cell: every attack on what the cheaper ones left, each outcome stored image by image."""

from __future__ import annotations

import logging
import time
import traceback
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
from art.utils import to_categorical

from art_sensreg.benchmark.attacks import ATTACKS, AttackSpec
from art_sensreg.benchmark.config.threat_models import NORMS, Threat, allowed
from art_sensreg.benchmark.defences.registry import DEFENCES
from art_sensreg.benchmark.engine.attack_job import Job, Row, key, measure_noise, survivors
from art_sensreg.benchmark.engine.target import Cell, Judgement, View
from art_sensreg.benchmark.engine.train import STOPS, quiet
from art_sensreg.utils.modes import frozen
from art_sensreg.utils.rng import seed_everything
from art_sensreg.utils.text import describe

logger = logging.getLogger(__name__)

# Images that are attacked together. Each block has a seed of its own, so that the outcome does not depend on which
# process attacks it.
_BLOCK = 128
# Images on which attacks that search for the smallest perturbation run against a random model, by budget: each query of
# theirs is many passes, and the border that they search for is not in one place.
_MINIMAL_RANDOM = {"smoke": 10, "quick": 10, "full": 100}
# Training images that attacks may take as examples of other classes.
_GUIDES = 500


def attack_cell(job: Job, progress: Callable[[str], None]) -> None:
    """
    Attack a cell with all that is not yet stored.

    :param job: What to do.
    :param progress: Called with the name of each attack before it runs.
    """
    with ExitStack() as stack:
        # Attacks need the gradients of the images alone; those of the weights, which ART computes too, cost time.
        for classifier in (*(view.classifier for view in job.cell.views), *job.surrogates.values()):
            stack.enter_context(frozen(classifier.model))
        for name in job.order:
            progress(name)
            _attack_views(job, ATTACKS[name])
    if job.processes.rank == 0:
        measure_noise(job)


def _attack_views(job: Job, attack: AttackSpec) -> None:
    for view in job.cell.views:
        if len(job.cell.views) > 1 and view.name == "default" and not attack.art:
            continue  # others than ART's see through preprocessing by themselves: there is no default to show
        for threat in job.settings.threats:
            if threat.norm in attack.norms:
                _attack_threat(job, view, attack, threat)


def _attack_threat(job: Job, view: View, attack: AttackSpec, threat: Threat) -> None:
    """Attack at each size of a norm; finished attacks are left alone."""
    missing = [eps for eps in threat.eps if job.find(attack.name, threat.norm, eps, view.name) is None]
    missing = job.processes.agree(missing)
    # A minimal-norm attack runs for all sizes together, also if only one outcome is lost: it has one seed.
    groups = [list(threat.eps)] if attack.minimal_norm and missing else [[eps] for eps in missing]
    for group in groups:
        keys = {(attack.name, threat.norm, eps, view.name) for eps in group}
        rows = [row for row in job.run["attacks"] if key(row) not in keys]
        rows += _rows_of(job, view, attack, threat.norm, group)
        job.run["attacks"] = rows
        if job.run["status"] == "error" and all(row["mask"] or row["status"] != "error" for row in rows):
            job.run.update(status="ok", reason="")  # a resumed run has filled what was missing
        job.records.put(job.run)


def _rows_of(job: Job, view: View, attack: AttackSpec, norm: str, group: list[float]) -> list[Row]:
    if attack.needs_surrogates and not job.surrogates:
        reason = "no other model of this seed was trained that could stand in"
        return [_empty(attack, norm, eps, view, "not_applicable", reason) for eps in group]
    refusal = attack.refusal(norm, job.dataset.input_shape)
    if refusal is not None:
        return [_empty(attack, norm, eps, view, "not_applicable", refusal) for eps in group]
    try:
        return _attack_once(job, view, attack, norm, group)
    except STOPS:
        raise
    except BaseException as error:  # noqa: BLE001 - one failing cell must not take the others with it
        logger.debug("%s", traceback.format_exc())
        reason = describe(error)
        # Some of ART's attacks cannot run through some of ART's preprocessors; that is ART's.
        if view.name == "default" and len(job.cell.views) > 1 and not DEFENCES[job.run["defence"]].ours:
            return [_empty(attack, norm, eps, view, "not_applicable", reason) for eps in group]
        job.run.update(status="error", reason="; ".join(filter(None, [job.run["reason"], f"{attack.name}: {reason}"])))
        return [_empty(attack, norm, eps, view, "error", reason) for eps in group]


def _attack_once(job: Job, view: View, attack: AttackSpec, norm: str, group: list[float]) -> list[Row]:
    n = len(job.dataset.x_test)
    strength = attack.settings[job.settings.budget]
    limit = min(job.cell.attackable(n), strength.get("points", n))
    if attack.minimal_norm and job.cell.random is not None:
        limit = min(limit, _MINIMAL_RANDOM[job.settings.budget])
    attacked = np.arange(n) < limit
    first = job.processes.rank == 0  # the others may see its files late
    left = [survivors(job, view.name, attack.name, norm, eps) for eps in group] if first else []
    left = job.processes.agree(left)
    # The group is ascending: what the smallest size left holds what a larger one could still break.
    wanted = np.flatnonzero(attacked & left[0])
    start = time.perf_counter()
    valid, judged = _outcomes(job, view, attack, norm, group, wanted)
    seconds = time.perf_counter() - start
    results = []
    for number, eps in enumerate(group):
        robust = left[number].copy()
        robust[wanted] &= judged.correct | ~valid[number]
        name = (job.run["defence"], f"seed{job.run['seed']}", attack.name, norm, eps)
        seen = np.zeros(n, dtype=bool)
        seen[wanted] = True
        mask = job.records.write_mask((*name, *_suffix(job, view)), robust, attacked, seen)
        results.append(
            {
                "attack": attack.name,
                "norm": norm,
                "eps": eps,
                "view": view.name,
                "status": "ok",
                "robust_accuracy": float(robust[attacked].mean()),
                "n": limit,
                "seen": len(wanted),
                "seconds": seconds,
                "mask": mask,
                **({"surrogates": list(job.surrogates)} if attack.needs_surrogates else {}),
                **_spread(judged, ~valid[number], left[number] & attacked, wanted, limit),
            }
        )
    return results


def _suffix(job: Job, view: View) -> tuple[str, ...]:
    return (view.name,) if len(job.cell.views) > 1 else ()


def _spread(judged: Judgement, void: np.ndarray, left: np.ndarray, wanted: np.ndarray, n: int) -> Row:
    """Of a random model, the accuracy by one draw and by the mean prediction, over the repeats."""
    if judged.single is None or judged.mean is None:
        return {}
    others = left.sum() - left[wanted].sum()
    figures: dict[str, float] = {}
    for name, outcome in (("single_draw", judged.single), ("mean", judged.mean)):
        shares = (((outcome | void) & left[wanted]).sum(axis=1) + others) / n
        figures |= {name: float(shares.mean()), f"{name}_spread": float(shares.std())}
    return {"random": {**figures, "repeats": len(judged.mean)}}


def _outcomes(
    job: Job, view: View, attack: AttackSpec, norm: str, group: list[float], wanted: np.ndarray
) -> tuple[np.ndarray, Judgement]:
    """Attack images block by block: whether each keeps within each size, `(sizes, n)`, and how it is classified."""
    found: list[tuple[int, np.ndarray, Judgement]] = []
    outcome: Any = found
    try:
        for block in range(job.processes.rank, -(-len(wanted) // _BLOCK), job.processes.count):
            rows = wanted[block * _BLOCK : (block + 1) * _BLOCK]
            parts = (job.run["defence"], job.run["seed"], attack.name, norm, group, view.name, block)
            found.append((block, *_attack_block(job, view, attack, norm, group, rows, parts)))
    except STOPS:
        raise
    except BaseException as error:  # noqa: BLE001 - raised again on every process
        outcome = error
    blocks = []
    for part in job.processes.gather(outcome):
        if isinstance(part, BaseException):
            raise part
        blocks += part
    blocks.sort(key=lambda entry: entry[0])
    if not blocks:
        return np.zeros((len(group), 0), dtype=bool), _nothing(job.cell)
    valid = np.concatenate([entry[1] for entry in blocks], axis=1)
    return valid, joined([entry[2] for entry in blocks])


def _attack_block(
    job: Job, view: View, attack: AttackSpec, norm: str, group: list[float], rows: np.ndarray, parts: tuple[Any, ...]
) -> tuple[np.ndarray, Judgement]:
    data, seed = job.dataset, zlib.crc32(repr(parts).encode()) & 0x7FFFFFFF
    x, y = data.x_test[rows], data.y_test[rows]
    settings = {
        **attack.settings[job.settings.budget],
        "seed": seed,
        "guides": (data.x_train[:_GUIDES], data.y_train[:_GUIDES]),
        "surrogates": list(job.surrogates.values()),
    }
    seed_everything(*parts)
    with quiet():
        generator = attack.build(view.classifier, NORMS[norm], max(group), settings)
        x_adv = generator.generate(x, y=to_categorical(y, data.nb_classes))
    x_adv = np.asarray(x_adv, dtype=np.float32)
    valid = np.stack([allowed(x, x_adv, norm, eps) for eps in group])
    # What is not finite is in no range; a preprocessor might crash on it.
    return valid, job.cell.judge(np.clip(np.nan_to_num(x_adv), 0.0, 1.0), y, seed)


def joined(parts: list[Judgement]) -> Judgement:
    """
    The judgement of several blocks as one.

    :param parts: At least one.
    :return: All of them.
    """

    def along(arrays: list[np.ndarray | None]) -> np.ndarray | None:
        given = [array for array in arrays if array is not None]
        return np.concatenate(given, axis=1) if given else None

    correct = np.concatenate([part.correct for part in parts])
    return Judgement(correct, along([part.single for part in parts]), along([part.mean for part in parts]))


def _nothing(cell: Cell) -> Judgement:
    none = np.zeros(0, dtype=bool)
    rows = None if cell.random is None else np.zeros((cell.repeats, 0), dtype=bool)
    return Judgement(none, rows, rows)


def _empty(attack: AttackSpec, norm: str, eps: float, view: View, status: str, reason: str) -> Row:
    return {
        "attack": attack.name,
        "norm": norm,
        "eps": eps,
        "view": view.name,
        "status": status,
        "robust_accuracy": None,
        "n": 0,
        "seen": 0,
        "seconds": 0.0,
        "mask": None,
        "reason": reason,
    }
