"""Run the suite: train each defence, attack each trained model, store every outcome."""

from __future__ import annotations

import json
import logging
import shutil
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from art_sensreg.benchmark.attacks import ATTACKS, NORMS, Attack, perturbation_size
from art_sensreg.benchmark.cell import quiet, seed_everything, trained_cell
from art_sensreg.benchmark.records import Records
from art_sensreg.benchmark.settings import SuiteSettings
from art_sensreg.classifiers import SensRegClassifier
from art_sensreg.datasets import Dataset
from art_sensreg.training.distributed import Processes, ProcessLostError

logger = logging.getLogger(__name__)


# Images that are attacked together. Each block has a seed of its own, so that the outcome does not depend on which
# process attacks it.
_BLOCK = 128


def run_suite(
    settings: SuiteSettings,
    dataset: Dataset,
    records: Records,
    verbose: bool = True,
    processes: Processes = Processes(),  # noqa: B008 - frozen
    resume: bool = False,
) -> bool:
    """
    Run all cells that are not yet in the records.

    :param settings: The settings.
    :param dataset: The data, already limited to its sizes.
    :param records: Where results go; those of an earlier run are kept.
    :param verbose: Whether a progress bar is shown.
    :param processes: Those that share the work: ours train on all of them, ART's on the first, all attack their part.
    :param resume: Whether to continue training runs that were broken off.
    :return: Whether every cell of ours is filled.
    """
    if processes.rank == 0 and not resume:
        shutil.rmtree(records.out / "checkpoints" / "training", ignore_errors=True)
    cells = [(name, seed) for seed in range(settings.seeds) for name in settings.defences]
    silent = not verbose or processes.rank > 0
    bar = tqdm(total=len(cells) * (1 + len(settings.attacks)), disable=silent, unit="cell")
    with bar:
        for name, seed in cells:
            bar.set_description(f"{name} seed {seed}: training")
            run, classifier = trained_cell(settings, dataset, records, name, seed, processes)
            bar.update()
            for attack in settings.attacks:
                bar.set_description(f"{name} seed {seed}: {attack}")
                if classifier is not None:
                    _attacked(settings, dataset, records, run, classifier, ATTACKS[attack], processes)
                bar.update()
            if processes.rank == 0:
                records.summarise(run, settings.norm, settings.eps)
            records.put(run)
    asked = [run for run in records.runs if (run["defence"], run["seed"]) in cells]
    return not any(run["status"] == "error" for run in asked)


def _attacked(
    settings: SuiteSettings,
    dataset: Dataset,
    records: Records,
    run: dict[str, Any],
    classifier: SensRegClassifier,
    attack: Attack,
    processes: Processes,
) -> None:
    """Attack a model at each eps and store the outcome; finished attacks are left alone."""
    done = {
        (row["attack"], row["norm"], row["eps"])
        for row in run["attacks"]
        if records.has_mask(row["mask"], len(dataset.x_test))
    }
    missing = processes.agree([eps for eps in settings.eps if (attack.name, settings.norm, eps) not in done])
    for group in [missing] if attack.minimal_norm else [[eps] for eps in missing]:
        if not group:
            continue
        rows = [
            row
            for row in run["attacks"]
            if (row["attack"], row["norm"], row["eps"]) not in _keys(attack, settings, group)
        ]
        try:
            rows += _attack_once(settings, dataset, records, run, classifier, attack, group, processes)
        except ProcessLostError:
            raise
        except Exception as error:  # noqa: BLE001 - one failing cell must not take the others with it
            reason = f"{attack.name}: {type(error).__name__}: {error}"
            run.update(status="error", reason="; ".join(filter(None, [run["reason"], reason])))
            logger.debug("%s", traceback.format_exc())
            rows += [_row(settings, attack, eps, None, 0, 0.0, None) for eps in group]
        run["attacks"] = rows
        if run["status"] == "error" and all(row["mask"] for row in rows):
            run.update(status="ok", reason="")  # a resumed run has filled what was missing
        records.put(run)


def _keys(attack: Attack, settings: SuiteSettings, group: list[float]) -> set[tuple[str, str, float]]:
    return {(attack.name, settings.norm, eps) for eps in group}


def _attack_once(
    settings: SuiteSettings,
    dataset: Dataset,
    records: Records,
    run: dict[str, Any],
    classifier: SensRegClassifier,
    attack: Attack,
    group: list[float],
    processes: Processes,
) -> list[dict[str, Any]]:
    strength = attack.settings[settings.budget]
    n = len(dataset.x_test)
    attacked = np.arange(n) < strength.get("points", n)
    right = classifier.predict(dataset.x_test).argmax(axis=1) == dataset.y_test
    # A wrong prediction is a success of the attacker already: only the others need work.
    wanted = np.flatnonzero(attacked & right)
    robust = np.tile(right, (len(group), 1))
    start = time.perf_counter()
    found: list[tuple[np.ndarray, np.ndarray]] = []
    outcome: list[tuple[np.ndarray, np.ndarray]] | Exception = found
    try:
        for block in range(processes.rank, -(-n // _BLOCK), processes.count):
            rows = wanted[wanted // _BLOCK == block]
            if len(rows):
                seed_everything(run["defence"], run["seed"], attack.name, settings.norm, group, block)
                found.append((rows, _holds(settings, dataset, classifier, attack, group, rows, strength)))
    except Exception as error:  # noqa: BLE001 - raised again on every process
        outcome = error
    for part in processes.gather(outcome):
        if isinstance(part, Exception):
            raise part
        for rows, held in part:
            robust[:, rows] = held
    seconds = time.perf_counter() - start
    results = []
    for eps, outcomes in zip(group, robust, strict=True):
        name = (run["defence"], f"seed{run['seed']}", attack.name, settings.norm, eps)
        mask = records.write_mask(name, outcomes, attacked)
        count = int(attacked.sum())
        results.append(_row(settings, attack, eps, float(outcomes[attacked].mean()), count, seconds, mask))
    return results


def _holds(
    settings: SuiteSettings,
    dataset: Dataset,
    classifier: SensRegClassifier,
    attack: Attack,
    group: list[float],
    rows: np.ndarray,
    strength: dict[str, Any],
) -> np.ndarray:
    """Attack some images: for each eps of the group, which of them stay rightly classified, `(len(group), n)`."""
    x, y = dataset.x_test[rows], dataset.y_test[rows]
    with quiet():
        generator = attack.build(classifier, NORMS[settings.norm], max(group), strength)
        x_adv = generator.generate(x, y=np.eye(dataset.nb_classes, dtype=np.float32)[y])
    x_adv = np.asarray(x_adv, dtype=np.float32)
    size = perturbation_size(x, x_adv, settings.norm)
    in_range = ((x_adv >= 0) & (x_adv <= 1)).all(axis=(1, 2, 3))
    fooled = classifier.predict(x_adv).argmax(axis=1) != y
    return np.stack([~(fooled & in_range & (size <= eps * (1 + 1e-5) + 1e-6)) for eps in group])


def _row(
    settings: SuiteSettings,
    attack: Attack,
    eps: float,
    accuracy: float | None,
    n: int,
    seconds: float,
    mask: str | None,
) -> dict[str, Any]:
    return {
        "attack": attack.name,
        "norm": settings.norm,
        "eps": eps,
        "robust_accuracy": accuracy,
        "n": n,
        "seconds": seconds,
        "mask": mask,
    }


def load_previous(out: Path) -> dict[str, Any] | None:
    """
    Read the results of an earlier run.

    :param out: Its folder.
    :return: `results.json`, or None if there is none.
    :raises ValueError: If it cannot be read.
    """
    path = out / "results.json"
    if not path.exists():
        return None
    try:
        data: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"`--out`: {path} cannot be read ({error}); choose another folder.") from error
    return data
