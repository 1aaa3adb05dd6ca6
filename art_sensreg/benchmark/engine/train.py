"""Training of a defence with one seed: its model, from the file of an earlier run or trained now."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from art_sensreg.art_bridge.weights import load_weights, save_weights
from art_sensreg.benchmark.config.settings import FILE_RECIPE, RECIPES
from art_sensreg.benchmark.defences.registry import DEFENCES, options_of
from art_sensreg.benchmark.defences.step_timing import PlainSteps, StepTimer
from art_sensreg.benchmark.defences.train_spec import NotApplicable, TrainingSpec
from art_sensreg.benchmark.engine.context import SuiteContext
from art_sensreg.benchmark.engine.runtime import attempt, quiet
from art_sensreg.benchmark.engine.target import Target, make_target
from art_sensreg.benchmark.results.records import RunRecord
from art_sensreg.utils.files import check_regular
from art_sensreg.utils.rng import seed_everything
from art_sensreg.utils.text import error_text, one_line

logger = logging.getLogger(__name__)

# Training runs longer than this leave checkpoints; writing them would show in the cost of shorter ones.
_LONG_SECONDS = 30.0
# With fewer than about this, on the digits, Adam was better than what the recipe of MNIST has; with more, at equal cost
# on MNIST (docs/results.md), it was worse.
_MANY_STEPS = 400


@dataclass(frozen=True, kw_only=True)
class Training:
    """
    A trained model, and what training it took; without a cost where it could not be timed fairly.

    :param repeats: The step cost of each block of steps, whose median is `step_cost`.
    :param history: Of each epoch, the means that the trainer noted.
    """

    model: nn.Module
    seconds: float
    step_cost: float | None = None
    repeats: tuple[float, ...] | None = None
    history: tuple[dict[str, float], ...] | None = None


def train_run(suite: SuiteContext, name: str, seed: int) -> Target | None:
    """
    Train a defence, or read the model that an earlier run has trained, and store the record. None if it could not be
    trained, for which the record has the reason.
    """
    stored = suite.processes.agree(suite.store.results.run(name, seed))
    if stored is not None and stored.status == "not_applicable" and not stored.crashed:
        return None
    if stored is not None and stored.trained:
        target, error = attempt(partial(_target_before, suite, name, seed))
        if isinstance(error, NotApplicable):  # what it needs was there when it was trained
            logger.warning("%s is not attacked any further: %s", name, error)
            return None
        if error is not None:
            logger.warning("%s is trained again: %s", name, error_text(error))
        elif target is not None:
            return target
    return _train_anew(suite, name, seed)


def clean_outcome(target: Target, spec: TrainingSpec) -> np.ndarray:
    """
    Which test images are classified correctly unattacked; of a slow defence, the first ones alone. FloatingPointError
    if the model returns NaN or infinite logits.
    """
    n = target.scored(len(spec.dataset.x_test))
    x, y = spec.dataset.x_test[:n], spec.dataset.y_test[:n]
    if not np.isfinite(target.model.predict(x)).all():  # the bare model: a preprocessor may take seconds
        raise FloatingPointError("the trained model returns NaN or infinite logits")
    seed_everything("clean", spec.seed)
    return target.score(x, y, seed=spec.seed).correct


def _target(suite: SuiteContext, name: str, seed: int, model: nn.Module) -> Target:
    # All models are attacked through the same class: some of ART's attacks crash on its own under numpy 2.
    spec, settings = suite.training_spec(seed), suite.settings
    return make_target(spec, spec.classifier(model), DEFENCES[name], options_of(settings, name), settings.budget)


def _target_before(suite: SuiteContext, name: str, seed: int) -> Target | None:
    model = _model_before(suite, name, seed)
    return None if model is None else _target(suite, name, seed, model)


def _model_before(suite: SuiteContext, name: str, seed: int) -> nn.Module | None:
    """The model of a defence from its checkpoint, on every process, if it can be read."""
    model = DEFENCES[name].new_model(suite.training_spec(seed), options_of(suite.settings, name))
    weights = stored_weights(suite.store.checkpoint(name, seed), model) if suite.processes.rank == 0 else None
    weights = suite.processes.agree(weights)
    if weights is None:
        return None
    model.load_state_dict(weights)
    return model


def stored_weights(checkpoint: Path, model: nn.Module) -> dict[str, torch.Tensor] | None:
    """The weights of a model that was trained before, or None if the file cannot be read into it."""
    try:
        check_regular(checkpoint)
        load_weights(checkpoint, model)
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be read (%s): this defence is trained again.", checkpoint, error)
        return None
    return model.state_dict()


def _train_anew(suite: SuiteContext, name: str, seed: int) -> Target | None:
    store = suite.store
    run = RunRecord(defence=name, dataset=suite.dataset.name, seed=seed)
    unfinished = store.out / "checkpoints" / "training" / f"{name}-seed{seed}"

    target = None
    training, error = attempt(partial(_training, suite, name, seed, unfinished))
    if training is not None:
        run = replace(
            run,
            train_seconds=training.seconds,
            step_cost=training.step_cost,
            step_cost_repeats=training.repeats,
            history=training.history,
        )
        scored, error = attempt(partial(_scored, suite, name, seed, training.model))
        if scored is not None:
            target, clean = scored
            run = replace(run, clean_accuracy=clean)
    if isinstance(error, NotApplicable):
        run = replace(run, status="not_applicable", reason=one_line(error))
    elif error is not None:
        status = "error" if DEFENCES[name].answered_for else "not_applicable"
        # What crashed, unlike what cannot run here, is tried again by a resumed run.
        run = replace(run, status=status, reason=error_text(error), crashed=True)
    store.put(run)
    if store.writes and (target is not None or isinstance(error, (FloatingPointError, ValueError))):
        shutil.rmtree(unfinished, ignore_errors=True)  # after other errors a resumed run may get further
    return target


def _scored(suite: SuiteContext, name: str, seed: int, model: nn.Module) -> tuple[Target, float]:
    """What is attacked, and its clean accuracy; its weights are stored."""
    target = _target(suite, name, seed, model)
    clean = float(clean_outcome(target, suite.training_spec(seed)).mean())
    if suite.store.writes:
        save_weights(suite.store.checkpoint(name, seed), target.model.model)
    return target, clean


def _training(suite: SuiteContext, name: str, seed: int, unfinished: Path) -> Training:
    """Train; what trains nothing takes the model of `none`, and with it what it cost, if that one is there."""
    if not DEFENCES[name].trained:
        twin = suite.processes.agree(suite.store.results.run("none", seed))
        if twin is not None and twin.trained:
            model = _model_before(suite, "none", seed)
            if model is not None:
                return Training(
                    model=model,
                    seconds=twin.train_seconds,
                    step_cost=twin.step_cost,
                    repeats=twin.step_cost_repeats,
                    history=twin.history,
                )
        name = "none"  # the same seed gives it the same weights
    spec, processes = suite.training_spec(seed, name), suite.processes
    _warn_of_few_steps(suite, name, spec)
    resumed = processes.agree(unfinished.exists())
    if processes.agree(PlainSteps(spec).seconds()) * spec.steps > _LONG_SECONDS or resumed:
        spec = replace(spec, checkpoint_dir=unfinished)
    # Of several processes, plain steps would be timed while the others do the same; of a resumed run, only its rest.
    timer = StepTimer(spec) if processes.count == 1 and not resumed else None
    seed_everything(name, seed)
    start = time.perf_counter()
    with quiet(), timer or nullcontext():
        if DEFENCES[name].ours:
            model = DEFENCES[name].train(spec, options_of(suite.settings, name)).model
        else:
            model = _train_on_the_first(suite, name, spec)
    seconds = time.perf_counter() - start - (timer.spent if timer else 0.0)
    return Training(model=model, seconds=seconds, history=_numbers(spec.history), **_cost(timer, seconds / spec.steps))


def _warn_of_few_steps(suite: SuiteContext, name: str, spec: TrainingSpec) -> None:
    own = RECIPES.get(suite.settings.dataset, FILE_RECIPE).optimization.get(name)
    if own and own.items() <= suite.settings.options.get(name, {}).items() and spec.steps < _MANY_STEPS:
        logger.warning(
            "%s has only %d steps; its optimizer (%s) is for %d or more: try --set %s.optimizer=adam",
            name, spec.steps, own["optimizer"], _MANY_STEPS, name,
        )  # fmt: skip


def _cost(timer: StepTimer | None, own: float) -> dict[str, Any]:
    """The step cost with its repeats; of what makes no steps with torch's optimizers, from the time of it all."""
    if timer is None:
        return {}
    ratios = timer.ratios()
    return {"step_cost": median(ratios) if ratios else own / median(timer.units), "repeats": ratios or None}


def _numbers(history: Sequence[Mapping[str, Any]]) -> tuple[dict[str, float], ...] | None:
    """What can be drawn of a trainer's history."""
    epochs = [
        {
            name: float(value)
            for name, value in epoch.items()
            if isinstance(value, (int, float)) and math.isfinite(value)
        }
        for epoch in history
    ]
    return tuple(epochs) or None


def _train_on_the_first(suite: SuiteContext, name: str, spec: TrainingSpec) -> nn.Module:
    """Train one of ART's, which know of one process only, on the first; the others take over weights or error."""
    options, processes = options_of(suite.settings, name), suite.processes

    def train() -> dict[str, torch.Tensor]:
        state = DEFENCES[name].train(spec, options).model.state_dict()
        return {entry: value.cpu() for entry, value in state.items()}

    model = DEFENCES[name].new_model(spec, options)
    weights, error = processes.agree(attempt(train) if processes.rank == 0 else None)
    if error is not None:
        raise error
    model.load_state_dict(weights)
    return model
