"""One cell's training: the model of a defence and a seed, from its file or trained now."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from art_sensreg.art_bridge.weights import load_weights, save_weights
from art_sensreg.benchmark.config.settings import SuiteSettings
from art_sensreg.benchmark.defences.registry import DEFENCES, options_of
from art_sensreg.benchmark.defences.spec import Defence
from art_sensreg.benchmark.defences.train_spec import NotApplicable, TrainingSpec
from art_sensreg.benchmark.engine.target import Cell, cell_classifier
from art_sensreg.benchmark.results.store import Records
from art_sensreg.datasets import Dataset
from art_sensreg.training.distributed import Processes, ProcessLostError
from art_sensreg.utils.files import check_regular
from art_sensreg.utils.rng import seed_everything
from art_sensreg.utils.text import describe, one_line

logger = logging.getLogger(__name__)

# What ends a run; anything else that a cell raises, `sys.exit()` in a plugin included, is the end of the cell alone.
STOPS = (KeyboardInterrupt, ProcessLostError)
# Training runs longer than this leave checkpoints; writing them would show in the cost of shorter ones.
_LONG_SECONDS = 30.0


def task_of(settings: SuiteSettings, dataset: Dataset, seed: int) -> TrainingSpec:
    """
    The training task of a seed, the same for every defence.

    :param settings: Settings of the run.
    :param dataset: The data.
    :param seed: The seed.
    :return: The task.
    """
    return TrainingSpec(
        dataset=dataset,
        model=settings.model,
        activation=settings.activation,
        norm_layer=settings.norm_layer,
        seed=seed,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        norm=settings.threats[0].norm,
        eps=max(settings.threats[0].eps),
        device=settings.device,
    )


def trained_cell(
    settings: SuiteSettings, dataset: Dataset, records: Records, name: str, seed: int, processes: Processes
) -> tuple[dict[str, Any], Cell | None]:
    """
    Train a defence, or read the model that an earlier run has trained.

    :param settings: Settings of the run.
    :param dataset: The data.
    :param records: The results so far.
    :param name: The defence.
    :param seed: The seed.
    :param processes: Those that share the work.
    :return: The record of the cell, and what is attacked; None if it could not be trained, for which the record has the
        reason.
    """
    task = task_of(settings, dataset, seed)
    run = processes.agree(records.find(name, seed))
    if run is not None and run["status"] == "not_applicable" and not run.get("crashed"):
        return run, None
    if run is not None and run["clean_accuracy"] is not None:
        try:
            model = _trained_before(settings, records, name, task, processes)
            if model is not None:
                return run, _cell(settings, task, name, model)
        except NotApplicable as reason:  # what it needs was there when it was trained
            logger.warning("%s is not attacked any further: %s", name, reason)
            return run, None
        except STOPS:
            raise
        except BaseException as error:  # noqa: BLE001 - one failing cell must not take the others with it
            logger.warning("%s is trained again: %s", name, describe(error))
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
    cell = None
    unfinished = records.out / "checkpoints" / "training" / f"{name}-seed{seed}"
    try:
        cell = _cell(settings, task, name, _model_of(settings, task, run, records, unfinished, processes))
        clean = float(clean_outcome(cell, task).mean())
        if records.writes:
            save_weights(_checkpoint(records, name, seed), cell.model.model)
        run["clean_accuracy"] = clean
    except NotApplicable as reason:
        run.update(status="not_applicable", reason=one_line(reason))
    except STOPS:
        raise
    except BaseException as error:  # noqa: BLE001 - one failing cell must not take the others with it
        status = "error" if DEFENCES[name].answered_for else "not_applicable"
        # What crashed, unlike what cannot run here, is tried again by a resumed run.
        run.update(status=status, reason=describe(error), crashed=True)
        logger.debug("%s", traceback.format_exc())
    if run["clean_accuracy"] is None:
        cell = None
    records.put(run)
    if records.writes and (cell is not None or run["reason"].startswith(("FloatingPointError", "ValueError"))):
        shutil.rmtree(unfinished, ignore_errors=True)  # after other errors a resumed run may get further
    return run, cell


def clean_outcome(cell: Cell, task: TrainingSpec) -> np.ndarray:
    """
    Which test images are rightly classified unattacked.

    :param cell: The trained defence.
    :param task: Its training task.
    :return: Boolean array; of a slow defence for the first images only.
    :raises FloatingPointError: If the model returns NaN or infinite logits.
    """
    n = cell.scored(len(task.dataset.x_test))
    x, y = task.dataset.x_test[:n], task.dataset.y_test[:n]
    if not np.isfinite(cell.model.predict(x)).all():  # the bare model: a preprocessor may take seconds
        raise FloatingPointError("the trained model returns NaN or infinite logits")
    seed_everything("clean", task.seed)
    return cell.judge(x, y, seed=task.seed).correct


def _cell(settings: SuiteSettings, task: TrainingSpec, name: str, model: nn.Module) -> Cell:
    # All models are attacked through the same class: some of ART's attacks crash on its own under numpy 2.
    return cell_classifier(task, task.classifier(model), DEFENCES[name], options_of(settings, name), settings.budget)


def _checkpoint(records: Records, name: str, seed: int) -> Path:
    return records.out / "checkpoints" / f"{name}-seed{seed}.safetensors"


def _trained_before(
    settings: SuiteSettings, records: Records, name: str, task: TrainingSpec, processes: Processes
) -> nn.Module | None:
    """The model of a defence from its checkpoint, on every process, if it can be read."""
    checkpoint = _checkpoint(records, name, task.seed)
    model = DEFENCES[name].new_model(task, options_of(settings, name))
    stored = processes.agree(_stored(checkpoint, model) if processes.rank == 0 else None)
    if stored is None:
        return None
    model.load_state_dict(stored)
    return model


def _model_of(
    settings: SuiteSettings,
    task: TrainingSpec,
    run: dict[str, Any],
    records: Records,
    unfinished: Path,
    processes: Processes,
) -> nn.Module:
    """Train; what trains nothing takes the model of `none`, and with it what it cost, if that one is there."""
    if not DEFENCES[run["defence"]].trained:
        twin = processes.agree(records.find("none", task.seed))
        if twin is not None and twin["clean_accuracy"] is not None:
            model = _trained_before(settings, records, "none", task, processes)
            if model is not None:
                run.update(train_seconds=twin["train_seconds"], step_cost=twin["step_cost"])
                return model
    return _train(settings, task, run, unfinished, processes)


def _stored(checkpoint: Path, model: nn.Module) -> dict[str, torch.Tensor] | None:
    """The weights of a model that was trained before, if they can be read into it."""
    try:
        check_regular(checkpoint)
        load_weights(checkpoint, model)
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be read (%s): this defence is trained again.", checkpoint, error)
        return None
    return model.state_dict()


def _train(
    settings: SuiteSettings, task: TrainingSpec, run: dict[str, Any], unfinished: Path, processes: Processes
) -> nn.Module:
    # The same seed gives what trains nothing of its own the weights of `none`.
    defence = DEFENCES[run["defence"] if DEFENCES[run["defence"]].trained else "none"]
    options = options_of(settings, defence.name)
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
    return model


def _on_the_first(defence: Defence, task: TrainingSpec, options: dict[str, Any], processes: Processes) -> nn.Module:
    """Train one of ART's, which know of one process only, on the first; the others take over weights or error."""
    outcome: Any = None
    model = defence.new_model(task, options)
    if processes.rank == 0:
        try:
            model = defence.train(task, options).model
            outcome = {name: value.cpu() for name, value in model.state_dict().items()}
        except STOPS:
            raise
        except BaseException as error:  # noqa: BLE001 - raised again on every process
            outcome = error
    outcome = processes.agree(outcome)
    if isinstance(outcome, BaseException):
        raise outcome
    model.load_state_dict(outcome)
    return model


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what is run inside: ART's progress bars cannot all be switched off; they write to stderr."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield
