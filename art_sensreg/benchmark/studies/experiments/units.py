"""The units of work of an experiment: none takes long, each leaves its outcome in the folder, all in a fixed order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace

from art_sensreg.benchmark.defences.registry import DEFENCES
from art_sensreg.benchmark.engine.attack import noise_accuracy
from art_sensreg.benchmark.engine.audit import audit_target, companions_of
from art_sensreg.benchmark.engine.context import TrainedRun
from art_sensreg.benchmark.engine.evaluations import evaluate_run
from art_sensreg.benchmark.engine.runtime import quiet
from art_sensreg.benchmark.engine.train import train_run
from art_sensreg.benchmark.results.entries import ExplanationRecord
from art_sensreg.benchmark.results.reading import audit_record
from art_sensreg.benchmark.studies.experiments.attack_units import (
    aim_next,
    attack_next,
    base_attack,
    not_aimed_at,
    unattacked,
)
from art_sensreg.benchmark.studies.experiments.cell import Cell, Laboratory, MissingWeights, Unit
from art_sensreg.benchmark.studies.experiments.costs import ROUNDS, measure_round, with_round
from art_sensreg.benchmark.studies.experiments.declaration import Row
from art_sensreg.benchmark.studies.experiments.folder import cell_name
from art_sensreg.interpret import ExplanationConfig, explain

_AUDITED, _EXPLAINED = 400, 200
# What a check is skipped without.
_COMPANIONS = {"twin_falls": "twin", "transfer_from_surrogates": "surrogates"}


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
        if record.crashed:
            raise RuntimeError(record.reason)  # a failure of this call; the next one tries again
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


def _uncertified(unit: Unit, cell: Cell, laboratory: Laboratory) -> bool:
    if DEFENCES[cell.name].certificate is None or not cell.trained:
        return False
    return cell.suite.record(cell.name, cell.seed).certified is None


def _certify(unit: Unit, cell: Cell, laboratory: Laboratory) -> str:
    evaluate_run(TrainedRun(suite=cell.suite, name=cell.name, seed=cell.seed, target=cell.target))
    found = cell.suite.record(cell.name, cell.seed).certified or ()
    return ", ".join(f"{one.norm} {one.eps:.4g}: {100 * one.accuracy:.1f} %" for one in found) or "none"


def _unaudited(unit: Unit, cell: Cell, laboratory: Laboratory) -> bool:
    """Without an audit, or with one that had to do without companions that have been trained since."""
    if not cell.trained:
        return False
    audit = cell.suite.record(cell.name, cell.seed).audit
    if audit is None:
        return True
    skipped = {check.name for check in audit.checks if check.status == "SKIP"}
    if skipped.isdisjoint(_COMPANIONS):
        return False
    found = companions_of(cell.suite.settings, cell.name, laboratory.others(cell))
    return any(check in skipped and getattr(found, companion) for check, companion in _COMPANIONS.items())


def _audit(unit: Unit, cell: Cell, laboratory: Laboratory) -> str:
    dataset = cell.suite.dataset.limited(test_size=min(_AUDITED, max(cell.row.points, 1)))
    with quiet():  # surrogates that it trains have progress bars
        report = audit_target(cell.suite.settings, dataset, cell.name, laboratory.others(cell), cell.seed)
    cell.suite.store.put(replace(cell.suite.record(cell.name, cell.seed), audit=audit_record(report)))
    return report.verdict


# --- in order ---------------------------------------------------------------------------------------------------------

Pending = Callable[[Unit, Cell, Laboratory], bool]
Work = Callable[[Unit, Cell, Laboratory], str]
KINDS: dict[str, tuple[Pending, Work]] = {
    "train": (_untrained, _train),
    "cost": (_without_cost, _cost),
    "noise": (_without_noise, _noise),
    "attack": (unattacked, attack_next),
    "aimed": (not_aimed_at, aim_next),
    "certify": (_uncertified, _certify),
    "audit": (_unaudited, _audit),
    "explain": (_unexplained, _explain),
}
"""By kind: whether some of it is left to do, and a function that does the next piece and says what came of it."""


def is_pending(unit: Unit, cell: Cell, laboratory: Laboratory) -> bool:
    """Whether some of a unit is left to do; so it is where only the missing weights could tell."""
    try:
        return KINDS[unit.kind][0](unit, cell, laboratory)
    except MissingWeights:
        return True


def work_on(unit: Unit, cell: Cell, laboratory: Laboratory) -> str:
    """Do the next piece of a unit. A model whose weights are missing is trained again first, and nothing else is."""
    try:
        return KINDS[unit.kind][1](unit, cell, laboratory)
    except MissingWeights:
        return f"the weights are not in the folder: trained again, {_train(unit, cell, laboratory)}"


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
    yield from seeds("certify", [row for row in rows if row.points])
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
