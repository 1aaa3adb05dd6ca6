"""Run the suite: train each defence, attack each trained model, store every outcome."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import time
import traceback
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from tqdm.auto import tqdm

from art_sensreg.benchmark.attacks import ATTACKS, NORMS, Attack, perturbation_size
from art_sensreg.benchmark.defences import DEFENCES, resolve_options
from art_sensreg.benchmark.records import Records
from art_sensreg.benchmark.settings import FILE_RECIPE, RECIPES, SuiteSettings
from art_sensreg.benchmark.task import NotApplicable, TrainingTask
from art_sensreg.classifiers import SensRegClassifier
from art_sensreg.datasets import Dataset

logger = logging.getLogger(__name__)


def run_suite(settings: SuiteSettings, dataset: Dataset, records: Records, verbose: bool = True) -> bool:
    """
    Run all cells that are not yet in the records.

    :param settings: The settings.
    :param dataset: The data, already limited to its sizes.
    :param records: Where results go; those of an earlier run are kept.
    :param verbose: Whether a progress bar is shown.
    :return: Whether every cell of ours is filled.
    """
    cells = [(name, seed) for seed in range(settings.seeds) for name in settings.defences]
    bar = tqdm(total=len(cells) * (1 + len(settings.attacks)), disable=not verbose, unit="cell")
    with bar:
        for name, seed in cells:
            bar.set_description(f"{name} seed {seed}: training")
            run, classifier = _trained(settings, dataset, records, name, seed)
            bar.update()
            for attack in settings.attacks:
                bar.set_description(f"{name} seed {seed}: {attack}")
                if classifier is not None:
                    _attacked(settings, dataset, records, run, classifier, ATTACKS[attack])
                bar.update()
            records.summarise(run, settings.norm, settings.eps)
            records.put(run)
    asked = [run for run in records.runs if (run["defence"], run["seed"]) in cells]
    return not any(run["status"] == "error" for run in asked)


def _task(settings: SuiteSettings, dataset: Dataset, seed: int) -> TrainingTask:
    return TrainingTask(
        dataset=dataset,
        model=settings.model,
        activation=settings.activation,
        norm_layer=settings.norm_layer,
        seed=seed,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        norm=settings.norm,
        eps=max(settings.eps),
        device=settings.device,
    )


def _trained(
    settings: SuiteSettings, dataset: Dataset, records: Records, name: str, seed: int
) -> tuple[dict[str, Any], SensRegClassifier | None]:
    """The record of a cell and its trained classifier: from the checkpoint if there is one, else trained now."""
    task = _task(settings, dataset, seed)
    checkpoint = records.out / "checkpoints" / f"{name}-seed{seed}.safetensors"
    run = records.find(name, seed)
    if run is not None and run["clean_accuracy"] is not None:
        model = task.new_model()
        try:
            load_model(model, str(checkpoint))
            return run, task.classifier(model)
        except (OSError, SafetensorError, RuntimeError) as error:
            logger.warning("%s cannot be read (%s): this defence is trained again.", checkpoint, error)
    if run is not None and run["status"] == "not_applicable":
        return run, None
    run = {
        "defence": name,
        "dataset": dataset.name,
        "seed": seed,
        "status": "ok",
        "reason": "",
        "clean_accuracy": None,
        "train_seconds": None,
        "step_cost": None,
        "attacks": [],
        "worst_case": [],
    }
    classifier = None
    try:
        classifier = _train(settings, task, run)
    except NotApplicable as reason:
        run.update(status="not_applicable", reason=str(reason))
    except Exception as error:  # noqa: BLE001 - one failing cell must not take the others with it
        status = "error" if DEFENCES[name].ours else "not_applicable"
        run.update(status=status, reason=f"{type(error).__name__}: {error}")
        logger.debug("%s", traceback.format_exc())
    if classifier is not None:
        aside = checkpoint.with_suffix(".part")
        save_model(classifier.model, str(aside))
        aside.replace(checkpoint)
    records.put(run)
    return run, classifier


def _train(settings: SuiteSettings, task: TrainingTask, run: dict[str, Any]) -> SensRegClassifier:
    defence = DEFENCES[run["defence"]]
    recipe = RECIPES.get(settings.dataset, FILE_RECIPE).penalties.get(defence.name, {})
    options = resolve_options(defence.name, settings.options.get(defence.name, {}), recipe)
    plain = task.plain_step_seconds()
    _seed_everything(defence.name, task.seed)
    start = time.perf_counter()
    with _quiet():
        trained = defence.train(task, options)
    run["train_seconds"] = time.perf_counter() - start
    # Before and after: on a shared machine the unit itself drifts.
    plain = (plain + task.plain_step_seconds()) / 2
    run["step_cost"] = run["train_seconds"] / task.steps / plain
    # All models are attacked through the same class: some of ART's attacks crash on its own under numpy 2.
    classifier = task.classifier(trained.model)
    predictions = classifier.predict(task.dataset.x_test)
    if not np.isfinite(predictions).all():
        raise FloatingPointError("the trained model returns NaN or infinite logits")
    run["clean_accuracy"] = float((predictions.argmax(axis=1) == task.dataset.y_test).mean())
    return classifier


def _attacked(
    settings: SuiteSettings,
    dataset: Dataset,
    records: Records,
    run: dict[str, Any],
    classifier: SensRegClassifier,
    attack: Attack,
) -> None:
    """Attack a model at each eps and store the outcome; finished attacks are left alone."""
    done = {
        (row["attack"], row["norm"], row["eps"])
        for row in run["attacks"]
        if records.has_mask(row["mask"], len(dataset.x_test))
    }
    missing = [eps for eps in settings.eps if (attack.name, settings.norm, eps) not in done]
    for group in [missing] if attack.minimal_norm else [[eps] for eps in missing]:
        if not group:
            continue
        rows = [
            row
            for row in run["attacks"]
            if (row["attack"], row["norm"], row["eps"]) not in _keys(attack, settings, group)
        ]
        try:
            rows += _attack_once(settings, dataset, records, run, classifier, attack, group)
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
) -> list[dict[str, Any]]:
    strength = attack.settings[settings.budget]
    n = len(dataset.x_test)
    attacked = np.arange(n) < strength.get("points", n)
    right = classifier.predict(dataset.x_test).argmax(axis=1) == dataset.y_test
    # A wrong prediction is a success of the attacker already: only the others need work.
    rows = np.flatnonzero(attacked & right)
    x, y = dataset.x_test[rows], dataset.y_test[rows]
    _seed_everything(run["defence"], run["seed"], attack.name, settings.norm, group)
    start = time.perf_counter()
    x_adv = x
    if len(rows):
        with _quiet():
            generator = attack.build(classifier, NORMS[settings.norm], max(group), strength)
            x_adv = generator.generate(x, y=np.eye(dataset.nb_classes, dtype=np.float32)[y])
    seconds = time.perf_counter() - start
    x_adv = np.asarray(x_adv, dtype=np.float32)
    size = perturbation_size(x, x_adv, settings.norm)
    in_range = ((x_adv >= 0) & (x_adv <= 1)).all(axis=(1, 2, 3))
    fooled = classifier.predict(x_adv).argmax(axis=1) != y
    results = []
    for eps in group:
        robust = right.copy()
        robust[rows] = ~(fooled & in_range & (size <= eps * (1 + 1e-5) + 1e-6))
        name = (run["defence"], f"seed{run['seed']}", attack.name, settings.norm, eps)
        mask = records.write_mask(name, robust, attacked)
        count = int(attacked.sum())
        results.append(_row(settings, attack, eps, float(robust[attacked].mean()), count, seconds, mask))
    return results


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


def _seed_everything(*parts: Any) -> None:
    """Seed the global generators that ART draws from, by the cell, so that a resumed run gives the same numbers."""
    seed = zlib.crc32(repr(parts).encode())
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """ART's progress bars cannot all be switched off; they write to stderr."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield


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
