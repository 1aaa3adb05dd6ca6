"""AutoAttack block by block, and the aimed attacks on what it left: the masks say how far they are."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace

import numpy as np

from art_sensreg.benchmark.attacks import ATTACKS
from art_sensreg.benchmark.engine.attack import AttackStep, Resources, attack
from art_sensreg.benchmark.results.entries import AttackRecord
from art_sensreg.benchmark.results.masks import has_mask, mask_name, read_mask, write_mask
from art_sensreg.benchmark.studies.experiments.cell import Cell, Laboratory, Unit, is_random
from art_sensreg.utils.modes import frozen
from art_sensreg.utils.rng import seed_everything

# Images that are attacked in a unit, by device: minutes at full strength.
BLOCK = {"cpu": 100, "cuda": 500}


def _step(unit: Unit, cell: Cell) -> AttackStep:
    return AttackStep(
        spec=ATTACKS[unit.attack], view=cell.target.views[-1], norm=unit.threat[0], sizes=(unit.threat[1],)
    )


def _mask(unit: Unit, cell: Cell, attack_name: str) -> tuple[str, np.ndarray, np.ndarray]:
    """
    The file of an attack's outcome so far, which images it left, and which were attacked. The record says how many: a
    mask may be that of a model that was trained before, or of a block whose record was never written.
    """
    n, name = len(cell.suite.dataset.x_test), mask_name(cell.name, f"seed{cell.seed}", attack_name, *unit.threat)
    stored = [one for one in cell.suite.record(cell.name, cell.seed).attacks if one.mask == name]
    if not stored or not has_mask(cell.folder.out, name, n):
        return name, *np.zeros((2, n), dtype=bool)
    robust, attacked = read_mask(cell.folder.out, name)
    counted = attacked & (attacked.cumsum() <= stored[0].n)
    return name, robust & counted, counted


def _points(cell: Cell) -> int:
    return cell.target.attackable(min(cell.row.points, len(cell.suite.dataset.x_test)))


def unattacked(unit: Unit, cell: Cell, laboratory: Laboratory) -> bool:
    if not cell.trained:
        return False
    done = int(_mask(unit, cell, unit.attack)[2].sum())
    # Its weights are asked only where images may be left: a folder that is done needs no checkpoints.
    return done < min(cell.row.points, len(cell.suite.dataset.x_test)) and done < _points(cell)


def attack_next(unit: Unit, cell: Cell, laboratory: Laboratory) -> str:
    """Attack the next images: those after the ones that are done, in order, that are classified correctly."""
    name, robust, attacked = _mask(unit, cell, unit.attack)
    first = int(attacked.sum())
    rows = np.arange(first, min(first + BLOCK[cell.suite.settings.device], _points(cell)))
    dataset = cell.suite.dataset
    seed_everything("clean", cell.seed)
    correct = cell.target.score(dataset.x_test[rows], dataset.y_test[rows], seed=cell.seed).correct
    left, seconds = _attacked(unit, cell, laboratory, rows[correct])
    attacked[rows], robust[rows[correct]] = True, left
    said = _stored(unit, cell, name, (robust, attacked, attacked), seconds)
    for aimed in (replace(unit, attack=one) for one in laboratory.experiment.aimed):
        if _behind(aimed, cell):
            _aim(aimed, cell, laboratory, count=0)
    return said


def _before_aiming(unit: Unit, cell: Cell) -> tuple[np.ndarray, np.ndarray]:
    """Which images AutoAttack left at this size, and which it attacked."""
    return _mask(unit, cell, base_attack(cell.name))[1:]


def _aimed_so_far(unit: Unit, cell: Cell) -> AttackRecord | None:
    """The record of an aimed attack; None where its mask is lost too."""
    found = cell.suite.record(cell.name, cell.seed).attack(_step(unit, cell).key(unit.threat[1]))
    return found if found and has_mask(cell.folder.out, found.mask, len(cell.suite.dataset.x_test)) else None


def _behind(unit: Unit, cell: Cell) -> bool:
    """Whether AutoAttack has attacked more images since: the outcome of an aimed attack is one of all of them."""
    aimed = _aimed_so_far(unit, cell)
    return aimed is not None and (aimed.n or 0) < _before_aiming(unit, cell)[1].sum()


def not_aimed_at(unit: Unit, cell: Cell, laboratory: Laboratory) -> bool:
    if not cell.trained or unattacked(replace(unit, attack=base_attack(cell.name)), cell, laboratory):
        return False  # AutoAttack comes first
    aimed = _aimed_so_far(unit, cell)
    done = aimed.seen or 0 if aimed else 0
    wanted = min(laboratory.experiment.aimed_points, _before_aiming(unit, cell)[0].sum())
    return done < wanted or _behind(unit, cell)


def aim_next(unit: Unit, cell: Cell, laboratory: Laboratory) -> str:
    """Attack the next of AutoAttack's survivors."""
    return _aim(unit, cell, laboratory, count=BLOCK[cell.suite.settings.device])


def _aim(unit: Unit, cell: Cell, laboratory: Laboratory, count: int) -> str:
    """Attack the next `count` of AutoAttack's survivors, and store the outcome of all images that it attacked."""
    left, attacked = _before_aiming(unit, cell)
    survivors, aimed, first = np.flatnonzero(left), _aimed_so_far(unit, cell), 0
    robust = left.copy()
    if aimed is not None and aimed.mask is not None:
        first = aimed.seen or 0
        before, tried = read_mask(cell.folder.out, aimed.mask)
        robust &= before | ~tried
    rows = survivors[: laboratory.experiment.aimed_points][first : first + count]
    robust[rows], seconds = _attacked(unit, cell, laboratory, rows)
    seen = np.zeros(len(robust), dtype=bool)
    seen[survivors[: first + len(rows)]] = True
    name = mask_name(cell.name, f"seed{cell.seed}", unit.attack, *unit.threat)
    return _stored(unit, cell, name, (robust, attacked, seen), seconds)


def _attacked(unit: Unit, cell: Cell, laboratory: Laboratory, rows: np.ndarray) -> tuple[np.ndarray, float]:
    """Attack images that are classified correctly: which of them are left, and the seconds."""
    start, dataset, step = time.perf_counter(), cell.suite.dataset, _step(unit, cell)
    if not len(rows):
        return np.zeros(0, dtype=bool), 0.0
    others = laboratory.others(cell) if step.spec.needs_surrogates else {}
    surrogates = {name: found.model for name, found in others.items() if found is not None and name != cell.name}
    resources = Resources(budget=cell.suite.settings.budget, dataset=dataset, surrogates=surrogates)
    draw = (cell.name, cell.seed, unit.attack, *unit.threat, int(rows[0]))
    with ExitStack() as stack:  # attacks need the gradients of the images alone
        for classifier in (cell.target.classifier(step.view), *surrogates.values()):
            stack.enter_context(frozen(classifier.model))
        outcome = attack(cell.target, dataset.x_test[rows], dataset.y_test[rows], step, resources, draw)
    return outcome.robust(0), time.perf_counter() - start


def _stored(
    unit: Unit, cell: Cell, name: str, outcome: tuple[np.ndarray, np.ndarray, np.ndarray], seconds: float
) -> str:
    """Store which images are left, attacked and seen so far; the mask first, which alone says how far it went."""
    robust, attacked, seen = outcome
    record, step = cell.suite.record(cell.name, cell.seed), _step(unit, cell)
    before = record.attack(step.key(unit.threat[1]))
    write_mask(cell.folder.out, name, robust, attacked, seen)
    made = AttackRecord(
        attack=unit.attack, norm=unit.threat[0], eps=unit.threat[1], view=step.view, status="ok",
        robust_accuracy=float(robust[attacked].mean()), n=int(attacked.sum()), seen=int(seen.sum()),
        seconds=seconds + (0.0 if before is None else before.seconds), mask=name,
    )  # fmt: skip
    cell.suite.store.put(record.with_attacks([made]))
    return f"{100 * (made.robust_accuracy or 0.0):.1f} % of {made.n}"


def base_attack(name: str) -> str:
    """The official AutoAttack that a defence calls for."""
    return "autoattack-rand" if is_random(name) else "autoattack"
