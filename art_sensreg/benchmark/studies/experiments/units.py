"""The units of work of an experiment: none takes long, each leaves its outcome in the folder, all in a fixed order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace

import numpy as np

from art_sensreg.benchmark.attacks import ATTACKS
from art_sensreg.benchmark.defences.registry import DEFENCES
from art_sensreg.benchmark.engine.attack import AttackStep, Resources, attack, noise_accuracy
from art_sensreg.benchmark.engine.audit import audit_target
from art_sensreg.benchmark.engine.runtime import quiet
from art_sensreg.benchmark.engine.train import train_run
from art_sensreg.benchmark.results.entries import AttackRecord, ExplanationRecord
from art_sensreg.benchmark.results.masks import has_mask, mask_name, read_mask, write_mask
from art_sensreg.benchmark.results.reading import audit_record
from art_sensreg.benchmark.studies.experiments.cell import Cell, Laboratory, is_random
from art_sensreg.benchmark.studies.experiments.costs import ROUNDS, measure_round, with_round
from art_sensreg.benchmark.studies.experiments.declaration import Row
from art_sensreg.benchmark.studies.experiments.folder import cell_name
from art_sensreg.interpret import ExplanationConfig, explain
from art_sensreg.utils.modes import frozen
from art_sensreg.utils.rng import seed_everything

# Images that are attacked in a unit, by device: minutes at full strength.
BLOCK = {"cpu": 100, "cuda": 250}
_AUDITED, _EXPLAINED = 400, 200


@dataclass(frozen=True, kw_only=True)
class Unit:
    """
    A kind of work on a row and seed, done piece by piece.

    :param kind: One of `KINDS`.
    :param row: The row.
    :param seed: The seed.
    :param attack: Name of the attack, if it is one.
    :param threat: Its norm and size.
    """

    kind: str
    row: Row
    seed: int
    attack: str = ""
    threat: tuple[str, float] = ("linf", 0.0)

    def __str__(self) -> str:
        what = f"{self.attack} {self.threat[0]} {self.threat[1]:.4g}" if self.attack else self.kind
        return f"{self.row.name} seed {self.seed}: {what}"


# --- training ---------------------------------------------------------------------------------------------------------


def _untrained(unit: Unit, cell: Cell, laboratory: Laboratory) -> bool:
    return cell.record is None or (cell.record.clean_accuracy is None and bool(cell.record.crashed))


def _train(unit: Unit, cell: Cell, laboratory: Laboratory) -> str:
    """Train, or go on with a training that was stopped; the time of all its pieces is that of the training."""
    folder, key, start = cell.folder, (cell.name, cell.seed), time.perf_counter()
    spent = folder.spent(*key)
    try:
        train_run(cell.suite, *key)
    except BaseException:
        if (folder.out / "checkpoints" / "training" / cell_name(*key)).exists():  # else it starts from the beginning
            folder.put_spent(*key, spent + time.perf_counter() - start)
        raise
    folder.put_spent(*key, None)
    record = cell.suite.record(*key)
    if not record.trained:
        return f"{record.status}: {record.reason}"
    folder.pack(*key)
    if spent:
        # The time of the last piece says nothing about that of a step.
        cell.suite.store.put(replace(record, train_seconds=spent + (record.train_seconds or 0.0), step_cost=None))
    return f"clean {100 * (record.clean_accuracy or 0.0):.2f} %"


# --- what is cheap ----------------------------------------------------------------------------------------------------


def _without_cost(unit: Unit, cell: Cell, laboratory: Laboratory) -> bool:
    cost = cell.folder.costs().get(unit.row.name)
    return DEFENCES[unit.row.name].trained and (cost is None or len(cost.get("rounds", [])) < ROUNDS)


def _cost(unit: Unit, cell: Cell, laboratory: Laboratory) -> str:
    found = measure_round(cell.suite, cell.name, cell.seed)
    cost = with_round(cell.folder.costs().get(cell.name), found)
    cell.folder.put_cost(cell.name, cost)
    return f"step cost {found.ratio:.2f}, median {cost['step_cost']:.2f}"


def _without_noise(unit: Unit, cell: Cell, laboratory: Laboratory) -> bool:
    return cell.trained and cell.suite.record(cell.name, cell.seed).random_noise is None


def _noise(unit: Unit, cell: Cell, laboratory: Laboratory) -> str:
    dataset = cell.suite.dataset
    n = cell.target.attackable(len(dataset.x_test))
    images = dataset.x_test[:n], dataset.y_test[:n]
    noise = noise_accuracy(cell.target, *images, cell.suite.settings.threats, cell.seed)
    cell.suite.store.put(replace(cell.suite.record(cell.name, cell.seed), random_noise=noise))
    return f"{n} images"


def _unexplained(unit: Unit, cell: Cell, laboratory: Laboratory) -> bool:
    return cell.trained and cell.suite.record(cell.name, cell.seed).explanations is None


def _explain(unit: Unit, cell: Cell, laboratory: Laboratory) -> str:
    n = cell.target.attackable(_EXPLAINED)
    x, y = cell.suite.dataset.x_test[:n], cell.suite.dataset.y_test[:n]
    scores = explain(cell.target.with_gradients, x, y, ExplanationConfig(seed=cell.seed))
    records = tuple(ExplanationRecord(**asdict(score)) for score in scores)
    cell.suite.store.put(replace(cell.suite.record(cell.name, cell.seed), explanations=records))
    return f"{len(x)} images"


def _unaudited(unit: Unit, cell: Cell, laboratory: Laboratory) -> bool:
    return cell.trained and cell.suite.record(cell.name, cell.seed).audit is None


def _audit(unit: Unit, cell: Cell, laboratory: Laboratory) -> str:
    dataset = cell.suite.dataset.limited(test_size=min(_AUDITED, max(cell.row.points, 1)))
    with quiet():  # surrogates that it trains have progress bars
        report = audit_target(cell.suite.settings, dataset, cell.name, laboratory.others(cell), cell.seed)
    cell.suite.store.put(replace(cell.suite.record(cell.name, cell.seed), audit=audit_record(report)))
    return report.verdict


# --- attacks ----------------------------------------------------------------------------------------------------------


def _step(unit: Unit, cell: Cell) -> AttackStep:
    return AttackStep(
        spec=ATTACKS[unit.attack], view=cell.target.views[-1], norm=unit.threat[0], sizes=(unit.threat[1],)
    )


def _mask(unit: Unit, cell: Cell, attack_name: str) -> tuple[str, np.ndarray, np.ndarray]:
    """The file of an attack's outcome so far, which images it left, and which were attacked."""
    n, name = len(cell.suite.dataset.x_test), mask_name(cell.name, f"seed{cell.seed}", attack_name, *unit.threat)
    if has_mask(cell.folder.out, name, n):
        return name, *read_mask(cell.folder.out, name)
    return name, *np.zeros((2, n), dtype=bool)


def _points(cell: Cell) -> int:
    return cell.target.attackable(min(cell.row.points, len(cell.suite.dataset.x_test)))


def _unattacked(unit: Unit, cell: Cell, laboratory: Laboratory) -> bool:
    return cell.trained and int(_mask(unit, cell, unit.attack)[2].sum()) < _points(cell)


def _attack(unit: Unit, cell: Cell, laboratory: Laboratory) -> str:
    """Attack the next images: those after the ones that are done, in order, that are classified correctly."""
    name, robust, attacked = _mask(unit, cell, unit.attack)
    first = int(attacked.sum())
    rows = np.arange(first, min(first + BLOCK[cell.suite.settings.device], _points(cell)))
    dataset = cell.suite.dataset
    seed_everything("clean", cell.seed)
    correct = cell.target.score(dataset.x_test[rows], dataset.y_test[rows], seed=cell.seed).correct
    left, seconds = _attacked(unit, cell, laboratory, rows[correct])
    attacked[rows], robust[rows[correct]] = True, left
    return _stored(unit, cell, name, (robust, attacked, attacked), seconds)


def _survivors(unit: Unit, cell: Cell, laboratory: Laboratory) -> np.ndarray:
    """The first images that AutoAttack left at this size."""
    base = replace(unit, attack=base_attack(cell.name))
    _, robust, attacked = _mask(base, cell, base.attack)
    return np.flatnonzero(robust & attacked)[: laboratory.experiment.aimed_points]


def _aimed_so_far(unit: Unit, cell: Cell) -> tuple[int, np.ndarray]:
    """At how many survivors an attack was aimed so far, and which images it left; none where its mask is lost."""
    name = mask_name(cell.name, f"seed{cell.seed}", unit.attack, *unit.threat)
    found = cell.suite.record(cell.name, cell.seed).attack(_step(unit, cell).key(unit.threat[1]))
    if found is None or not has_mask(cell.folder.out, name, len(cell.suite.dataset.x_test)):
        return 0, np.zeros(0, dtype=bool)
    return found.seen or 0, read_mask(cell.folder.out, name)[0]


def _not_aimed_at(unit: Unit, cell: Cell, laboratory: Laboratory) -> bool:
    base = replace(unit, attack=base_attack(cell.name))
    if not cell.trained or _unattacked(base, cell, laboratory):
        return False  # AutoAttack comes first
    return _aimed_so_far(unit, cell)[0] < len(_survivors(unit, cell, laboratory))


def _aim(unit: Unit, cell: Cell, laboratory: Laboratory) -> str:
    """Attack the next of AutoAttack's survivors."""
    base = replace(unit, attack=base_attack(cell.name))
    _, left, attacked = _mask(base, cell, base.attack)
    first, before = _aimed_so_far(unit, cell)
    robust = before if first else left.copy()
    survivors = _survivors(unit, cell, laboratory)
    rows = survivors[first : first + BLOCK[cell.suite.settings.device]]
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


# --- in order ---------------------------------------------------------------------------------------------------------

Pending = Callable[[Unit, Cell, Laboratory], bool]
Work = Callable[[Unit, Cell, Laboratory], str]
KINDS: dict[str, tuple[Pending, Work]] = {
    "train": (_untrained, _train),
    "cost": (_without_cost, _cost),
    "noise": (_without_noise, _noise),
    "attack": (_unattacked, _attack),
    "aimed": (_not_aimed_at, _aim),
    "audit": (_unaudited, _audit),
    "explain": (_unexplained, _explain),
}
"""By kind: whether some of it is left to do, and a function that does the next piece and says what came of it."""


def units_of(laboratory: Laboratory) -> Iterator[Unit]:
    """All units in the order of their importance: headline rows first, of them the largest size of the first norm."""
    experiment = laboratory.experiment
    rows = sorted(laboratory.rows, key=lambda row: not row.headline)  # the sort is stable
    headline = [row for row in rows if row.headline]
    sizes = [(threat.norm, eps) for threat in laboratory.plan.settings.threats for eps in reversed(threat.eps)]

    def seeds(kind: str, chosen: list[Row], **fields: object) -> Iterator[Unit]:
        for seed in range(max((row.seeds for row in chosen), default=0)):
            yield from (Unit(kind=kind, row=row, seed=seed, **fields) for row in chosen if seed < row.seeds)  # type: ignore[arg-type]

    def attacks(chosen: list[Row], threat: tuple[str, float]) -> Iterator[Unit]:
        wanted = [row for row in chosen if row.points]
        yield from (replace(unit, attack=base_attack(unit.row.name)) for unit in seeds("attack", wanted, threat=threat))

    yield from seeds("train", headline)
    yield from seeds("train", [row for row in rows if not row.headline])
    yield from seeds("noise", [row for row in rows if row.points])
    if experiment.costed:
        yield from (Unit(kind="cost", row=row, seed=0) for row in rows)
    if experiment.explained:
        yield from seeds("explain", rows)
    for threat in sizes[:1]:
        yield from attacks(headline, threat)
        yield from attacks([row for row in rows if not row.headline], threat)
    if experiment.audited:
        yield from (Unit(kind="audit", row=row, seed=0) for row in headline)
    for name in experiment.aimed:
        aimed_at = experiment.aimed_at or sizes[0]
        yield from (Unit(kind="aimed", row=row, seed=0, attack=name, threat=aimed_at) for row in headline)
    for threat in sizes[1:]:
        yield from attacks(headline, threat)
    for threat in sizes[1:]:
        yield from attacks([row for row in rows if not row.headline], threat)
