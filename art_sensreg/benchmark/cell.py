"""One cell's training: the model of a defence and a seed, from its file or trained now."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import time
import traceback
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn

from art_sensreg.benchmark.defences import DEFENCES, Defence, resolve_options
from art_sensreg.benchmark.records import Records
from art_sensreg.benchmark.settings import FILE_RECIPE, RECIPES, SuiteSettings
from art_sensreg.benchmark.task import NotApplicable, TrainingTask
from art_sensreg.classifiers import SensRegClassifier
from art_sensreg.datasets import Dataset
from art_sensreg.training.distributed import Processes, ProcessLostError

logger = logging.getLogger(__name__)

# Training runs longer than this leave checkpoints; writing them would show in the cost of shorter ones.
_LONG_SECONDS = 30.0


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


def trained_cell(
    settings: SuiteSettings, dataset: Dataset, records: Records, name: str, seed: int, processes: Processes
) -> tuple[dict[str, Any], SensRegClassifier | None]:
    """
    Train a defence, or read the model that an earlier run has trained.

    :param settings: Settings of the run.
    :param dataset: The data.
    :param records: The results so far.
    :param name: The defence.
    :param seed: The seed.
    :param processes: Those that share the work.
    :return: The record of the cell, and the classifier; None if it could not be trained, for which the record has the
        reason.
    """
    task = _task(settings, dataset, seed)
    checkpoint = records.out / "checkpoints" / f"{name}-seed{seed}.safetensors"
    run = processes.agree(records.find(name, seed))
    if run is not None and run["clean_accuracy"] is not None:
        stored = processes.agree(_stored(checkpoint, task) if processes.rank == 0 else None)
        if stored is not None:
            model = task.new_model()
            model.load_state_dict(stored)
            return run, task.classifier(model)
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
    unfinished = records.out / "checkpoints" / "training" / f"{name}-seed{seed}"
    try:
        classifier = _train(settings, task, run, unfinished, processes)
    except NotApplicable as reason:
        run.update(status="not_applicable", reason=str(reason))
    except ProcessLostError:
        raise
    except Exception as error:  # noqa: BLE001 - one failing cell must not take the others with it
        status = "error" if DEFENCES[name].ours else "not_applicable"
        run.update(status=status, reason=f"{type(error).__name__}: {error}")
        logger.debug("%s", traceback.format_exc())
    if classifier is not None and records.writes:
        aside = checkpoint.with_suffix(".part")
        save_model(classifier.model, str(aside))
        aside.replace(checkpoint)
    records.put(run)
    if records.writes and (classifier is not None or run["reason"].startswith(("FloatingPointError", "ValueError"))):
        shutil.rmtree(unfinished, ignore_errors=True)  # after other errors a resumed run may get further
    return run, classifier


def _stored(checkpoint: Path, task: TrainingTask) -> dict[str, torch.Tensor] | None:
    """The weights of a model that was trained before, if they can be read."""
    model = task.new_model()
    try:
        load_model(model, str(checkpoint))
    except (OSError, SafetensorError, RuntimeError) as error:
        logger.warning("%s cannot be read (%s): this defence is trained again.", checkpoint, error)
        return None
    return model.state_dict()


def _train(
    settings: SuiteSettings, task: TrainingTask, run: dict[str, Any], unfinished: Path, processes: Processes
) -> SensRegClassifier:
    defence = DEFENCES[run["defence"]]
    recipe = RECIPES.get(settings.dataset, FILE_RECIPE).penalties.get(defence.name, {})
    options = resolve_options(defence.name, settings.options.get(defence.name, {}), recipe)
    plain = processes.agree(task.plain_step_seconds())
    if plain * task.steps > _LONG_SECONDS or processes.agree(unfinished.exists()):
        task = replace(task, checkpoint_dir=unfinished)
    seed_everything(defence.name, task.seed)
    start = time.perf_counter()
    with quiet():
        model = defence.train(task, options).model if defence.ours else _on_the_first(defence, task, options, processes)
    run["train_seconds"] = time.perf_counter() - start
    # Before and after: on a shared machine the unit itself drifts.
    plain = (plain + task.plain_step_seconds()) / 2
    if processes.count == 1:  # of several, the unit would be timed while the others do the same
        run["step_cost"] = run["train_seconds"] / task.steps / plain
    # All models are attacked through the same class: some of ART's attacks crash on its own under numpy 2.
    classifier = task.classifier(model)
    predictions = classifier.predict(task.dataset.x_test)
    if not np.isfinite(predictions).all():
        raise FloatingPointError("the trained model returns NaN or infinite logits")
    run["clean_accuracy"] = float((predictions.argmax(axis=1) == task.dataset.y_test).mean())
    return classifier


def _on_the_first(defence: Defence, task: TrainingTask, options: dict[str, Any], processes: Processes) -> nn.Module:
    """Train one of ART's, which know of one process only, on the first; the others take over weights or error."""
    outcome: Any = None
    model = task.new_model()
    if processes.rank == 0:
        try:
            model = defence.train(task, options).model
            outcome = {name: value.cpu() for name, value in model.state_dict().items()}
        except Exception as error:  # noqa: BLE001 - raised again on every process
            outcome = error
    outcome = processes.agree(outcome)
    if isinstance(outcome, Exception):
        raise outcome
    model.load_state_dict(outcome)
    return model


def seed_everything(*parts: Any) -> None:
    """
    Seed the global generators that ART draws from, so that a resumed run gives the same numbers.

    :param parts: What the numbers are drawn for.
    """
    seed = zlib.crc32(repr(parts).encode())
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what is run inside: ART's progress bars cannot all be switched off; they write to stderr."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield
