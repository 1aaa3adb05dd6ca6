"""From an ART classifier and numpy data to the training loop: checks, preprocessing, objective."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from art.data_generators import NumpyDataGenerator
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.adversaries import Adversary
from art_sensreg.art_bridge.checks import clip_bounds
from art_sensreg.art_bridge.data import Reader
from art_sensreg.art_bridge.effect_warning import warn_without_effect
from art_sensreg.art_bridge.loaders import BatchAdapter, describe_source, loader_source
from art_sensreg.art_bridge.placement import move, place, run_device
from art_sensreg.art_bridge.preprocessing import Preprocessing
from art_sensreg.art_bridge.run_description import description, preprocessors
from art_sensreg.objectives import Objective
from art_sensreg.outputs import SingleOutput
from art_sensreg.penalties.forward.main_output import with_main_output
from art_sensreg.penalties.forward.row_coupling import LOOK
from art_sensreg.penalties.forward.taps import trial
from art_sensreg.penalty_lists import Penalty, active_penalties
from art_sensreg.randomization import BayesianKL
from art_sensreg.training.batches import HeldOut, HeldOutTensors, LoaderBatches, TensorBatches
from art_sensreg.training.callbacks import History
from art_sensreg.training.checkpoint.describe import Describer
from art_sensreg.training.checkpoint.fingerprint import describe_data
from art_sensreg.training.checkpoint.loading import check_live_state
from art_sensreg.training.checkpoint.run import Checkpoints
from art_sensreg.training.config import TrainingConfig
from art_sensreg.training.distributed import Processes, join_processes
from art_sensreg.training.loop import train
from art_sensreg.training.numerics.loss_checks import check_divisible, check_loss_alone
from art_sensreg.training.optimizers import needs_closure
from art_sensreg.training.overfitting import POINTS, OverfittingGuard, Watched, watched_attacks
from art_sensreg.training.resources import one_run_at_a_time
from art_sensreg.training.run import RunSetup
from art_sensreg.training.schedules.stepping import check_scheduler
from art_sensreg.utils import check_differentiable, check_flag, enable_grad
from art_sensreg.utils.modes import preserve_mode, set_mode


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """
    What `fit` and `fit_generator` of classifier and trainer have in common beside the data.

    :param validation_data: Images and labels that are scored after every epoch, a pair or a loader; or None.
    :param scheduler: Learning rate scheduler of the classifier's optimizer, or None.
    :param checkpoint_dir: Folder for checkpoints, or None.
    :param resume: Whether to continue from the newest checkpoint in it, if there is one.
    :param verbose: Whether a progress bar is shown.
    :param training_mode: Whether the model trains in training mode.
    :param adversary: Adversarial training to combine with the penalties, or None.
    :param batch_adapter: Function that makes a pair of images and labels of each batch of a loader, or None.
    """

    validation_data: Any = None
    scheduler: Any = None
    checkpoint_dir: str | Path | None = None
    resume: bool = False
    verbose: bool = False
    training_mode: bool = True
    adversary: Adversary | None = None
    batch_adapter: BatchAdapter | None = None

    def __post_init__(self) -> None:
        if self.checkpoint_dir is not None and not isinstance(self.checkpoint_dir, (str, Path)):
            raise TypeError(f"`checkpoint_dir` is {self.checkpoint_dir!r}; expected the path of a folder.")
        check_flag("resume", self.resume)
        for name in ("verbose", "training_mode"):
            if not isinstance(getattr(self, name), int):  # 0, 1 and 2 are usual elsewhere
                check_flag(name, getattr(self, name))
        if self.resume and self.checkpoint_dir is None:
            raise ValueError("`resume` is True and `checkpoint_dir` is None; expected the folder of the checkpoints.")


def with_given(config: TrainingConfig, **given: Any) -> TrainingConfig:
    """
    Settings in which the arguments of `fit` win over the config.

    :param config: The config.
    :param given: Settings by name; None leaves the config's.
    :return: A new config.
    :raises TypeError: If `config` is something else.

    Example:
    >>> from art_sensreg.art_bridge.fit import with_given
    >>> with_given(TrainingConfig(seed=1), seed=None, batch_size=32).batch_size
    32
    """
    if not isinstance(config, TrainingConfig):
        raise TypeError(f"`config` is {config!r}; expected a TrainingConfig.")
    return replace(config, **{name: value for name, value in given.items() if value is not None})


@one_run_at_a_time()
@enable_grad()
def fit_arrays(
    classifier: PyTorchClassifier,
    penalties: Sequence[Penalty],
    config: TrainingConfig,
    x: Any,
    y: Any,
    options: FitOptions,
) -> History:
    """
    Check the data and train any ART PyTorch classifier on it.

    :param classifier: The classifier, trained in place.
    :param penalties: The penalties.
    :param config: Settings.
    :param x: Images, as for :meth:`SensRegClassifier.fit`. Arrays mapped from a file stay there.
    :param y: Labels.
    :param options: The rest.
    :return: The history (see `training.loop.train`).
    :raises TypeError: If something is of a wrong type.
    :raises ValueError: If something is out of range, before any weight has moved.
    """
    _check_optimizer(classifier, options.scheduler)
    reader = Reader(classifier, config, in_input_units(penalties, options))
    images, labels = reader.check(x, y)
    processes = _move(classifier, penalties, config, options)
    batches = reader.arrays(images, labels, least=2 * processes.count)

    @functools.cache  # arrays are read once
    def data(describe: Describer) -> dict[str, str]:
        described = describe_data(images, batches.y)
        changed = any(operation.apply_fit for operation in preprocessors(classifier))
        return {**described, **({"preprocessed": describe_data(batches.x, batches.y)["content"]} if changed else {})}

    return _train(reader, penalties, batches, data, options, processes)


@one_run_at_a_time()
@enable_grad()
def fit_batches(
    classifier: PyTorchClassifier,
    penalties: Sequence[Penalty],
    config: TrainingConfig,
    loader: Any,
    options: FitOptions,
) -> History:
    """
    Train any ART PyTorch classifier on batches of a loader.

    :param classifier: The classifier, trained in place.
    :param penalties: The penalties.
    :param config: Settings; `batch_size` and `drop_last` are the loader's affair.
    :param loader: One of ART's data generators with a known `size`, or a torch `DataLoader` of images and labels.
    :param options: The rest.
    :return: The history.
    :raises TypeError: If something is of a wrong type.
    :raises ValueError: If something is out of range; each batch is checked as it comes.
    """
    _check_optimizer(classifier, options.scheduler)
    reader = Reader(classifier, config, in_input_units(penalties, options))
    source = loader_source(loader, options.batch_adapter)
    if isinstance(loader, NumpyDataGenerator) and options.batch_adapter is None:
        reader.check(loader.x, loader.y)  # all of it, before any weight moves
    processes = _move(classifier, penalties, config, options)
    batches = reader.loader(source)
    return _train(reader, penalties, batches, lambda describe: describe_source(source, describe), options, processes)


def in_input_units(penalties: Sequence[Penalty], options: FitOptions) -> list[str]:
    """
    What is measured in the unit of the training images.

    :param penalties: The penalties.
    :param options: The rest.
    :return: Names of arguments, for messages.
    """
    measured = any(not isinstance(penalty, BayesianKL) for penalty in active_penalties(penalties))
    return ["`penalties`"] * measured + ["`adversary`"] * (options.adversary is not None)


def _train(
    reader: Reader,
    penalties: Sequence[Penalty],
    batches: TensorBatches | LoaderBatches,
    data: Callable[[Describer], dict[str, str]],
    options: FitOptions,
    processes: Processes,
) -> History:
    classifier, config = reader.classifier, reader.config
    model, objective = _prepare(classifier, penalties, batches.look(LOOK), options)
    if config.accumulate > 1:
        check_divisible(objective, model, *batches.sample(LOOK))
    validation = reader.held_out(options.validation_data, options.batch_adapter)
    setup = RunSetup(
        model=model,
        objective=objective,
        batches=batches,
        optimizer=classifier.optimizer,
        config=config,
        scheduler=options.scheduler,
        validation=validation,
        guard=_guard(options.adversary, config, batches, validation),
        processes=processes,
        training_mode=options.training_mode,
        verbose=options.verbose and processes.rank == 0,
    )
    if options.checkpoint_dir is None:
        return train(setup)
    folder = Path(options.checkpoint_dir).expanduser()
    describe = description(classifier, setup, data)
    with Checkpoints(folder, config.keep, options.resume, describe, processes) as checkpoints:
        return train(replace(setup, checkpoints=checkpoints))


def _guard(
    adversary: Adversary | None,
    config: TrainingConfig,
    batches: TensorBatches | LoaderBatches,
    validation: HeldOut | None,
) -> OverfittingGuard | None:
    """Adversarial training of one step is watched, and of two, which has been seen to collapse too."""
    if adversary is None or adversary.steps > 2 or config.on_catastrophic_overfitting == "ignore":
        return None
    x, y = batches.sample(POINTS) if validation is None else validation.sample(POINTS)
    data = HeldOutTensors(x.to(batches.device), y.to(batches.device))
    watched = Watched(watched_attacks(adversary.eps, adversary.ball), data)
    return OverfittingGuard(config.on_catastrophic_overfitting, watched)


def _move(
    classifier: PyTorchClassifier, penalties: Sequence[Penalty], config: TrainingConfig, options: FitOptions
) -> Processes:
    """Bring the classifier to the device of the run, where it stays; find the processes that train with this one."""
    device = run_device(classifier, config)
    place(classifier, device)
    for part in (*penalties, options.adversary):
        move(part, device)
    return join_processes(device)


def _check_optimizer(classifier: PyTorchClassifier, scheduler: Any) -> torch.optim.Optimizer:
    expected = "expected a torch optimizer of the model's parameters"
    if classifier.loss is None:
        raise ValueError("`loss` of the classifier is None; expected the loss to train with.")
    check_differentiable(classifier.model, "model")
    if classifier.optimizer is None:
        raise ValueError(f"`optimizer` of the classifier is None; {expected}.")
    optimizer: torch.optim.Optimizer = classifier.optimizer
    needs_closure(optimizer)
    trained = {id(parameter) for parameter in classifier.model.parameters() if parameter.requires_grad}
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not trained & held:
        raise ValueError(
            f"`optimizer` of the classifier holds none of the {len(trained)} parameters that require gradients; "
            f"{expected}."
        )
    check_scheduler(scheduler, optimizer)
    check_live_state(optimizer)
    return optimizer


def _prepare(
    classifier: PyTorchClassifier, penalties: Sequence[Penalty], x: torch.Tensor, options: FitOptions
) -> tuple[nn.Module, Objective]:
    bounds = None
    if classifier.clip_values is not None:
        low, high = (
            torch.as_tensor(bound, dtype=x.dtype, device=x.device)
            for bound in clip_bounds(classifier.clip_values, classifier.input_shape)
        )
        bounds = (low, high)
    model = Preprocessing.of(classifier).trained_model()
    _check_output(classifier, model, x[:2])
    model = with_main_output(model, x, _columns(classifier), options.training_mode)
    objective = Objective(penalties, classifier.loss, bounds, options.adversary)
    # In the mode of training: a model's own randomness shows in no other.
    with preserve_mode(model.modules()):
        set_mode(model, options.training_mode)
        objective.prepare(model, x)
        check_loss_alone(objective, model, x[:2])
        warn_without_effect(model, x, penalties, _trained(classifier), bounds, objective.plan)
    return model, objective


def _check_output(classifier: PyTorchClassifier, model: nn.Module, x: torch.Tensor) -> None:
    """Two rows through the model in evaluation mode: does it return one logit a class?"""
    with trial(model, x):
        logits = model(x.clone())
    shapes = [(len(x), columns) for columns in _columns(classifier)]
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) not in shapes:
        came = f"shape {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(f"`model` returns {came} for {len(x)} images; expected logits of shape {shapes[0]}.")
    if logits.shape[1] == 1:
        SingleOutput.of(classifier).check()  # what accuracy is counted by


def _columns(classifier: PyTorchClassifier) -> tuple[int, ...]:
    """How many outputs a model may have: one a class, or a single one for two."""
    classes = classifier.nb_classes
    return (classes, 1) if classes == 2 else (classes,)


def _trained(classifier: PyTorchClassifier) -> list[nn.Parameter]:
    """The weights of the model that training moves: the optimizer holds them, and they require a gradient."""
    if classifier.optimizer is None:
        return [p for p in classifier.model.parameters() if p.requires_grad]
    held = {id(parameter) for group in classifier.optimizer.param_groups for parameter in group["params"]}
    return [p for p in classifier.model.parameters() if p.requires_grad and id(p) in held]
