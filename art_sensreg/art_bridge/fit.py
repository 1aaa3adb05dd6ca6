"""From an ART classifier and numpy data to the training loop and back."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from art.data_generators import NumpyDataGenerator
from art.estimators.classification import PyTorchClassifier

from art_sensreg.adversaries import Adversary
from art_sensreg.art_bridge.data import Reader
from art_sensreg.art_bridge.loaders import BatchAdapter, describe_source, loader_source
from art_sensreg.art_bridge.placement import move, place, run_device
from art_sensreg.art_bridge.prepare import check_trainable, prepare_training
from art_sensreg.art_bridge.preprocessing import STANDARDISATIONS
from art_sensreg.penalties.forward.row_coupling import LOOK
from art_sensreg.penalty_lists import Penalty, active_penalties
from art_sensreg.randomization import BayesianKL
from art_sensreg.training.batches import (
    Augmentation,
    HeldOut,
    HeldOutLoader,
    HeldOutTensors,
    LoaderBatches,
    TensorBatches,
)
from art_sensreg.training.batches.replayed import Replayed
from art_sensreg.training.callbacks import History
from art_sensreg.training.checkpoint.comparison import Fingerprint
from art_sensreg.training.checkpoint.describe import Describer
from art_sensreg.training.checkpoint.fingerprint import describe_data, fingerprint, own_things
from art_sensreg.training.checkpoint.run import Checkpoints
from art_sensreg.training.config import TrainingConfig
from art_sensreg.training.distributed import Processes, join_processes
from art_sensreg.training.loop import train
from art_sensreg.training.metrics import largest_class
from art_sensreg.training.numerics.loss_checks import check_divisible
from art_sensreg.training.overfitting import POINTS, OverfittingGuard, Watched, watched_attacks
from art_sensreg.training.resources import one_run_at_a_time
from art_sensreg.training.run import RunSetup
from art_sensreg.utils import check_flag, enable_grad

DescribeData = Callable[[Describer], dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """
    The arguments that `fit` and `fit_generator` of classifier and trainer share, apart from the data.

    :param validation_data: Images and labels that are scored after every epoch, a pair or a loader; or None.
    :param scheduler: Learning rate scheduler of the classifier's optimizer, or None.
    :param checkpoint_dir: Folder for checkpoints, or None.
    :param resume: Whether to continue from the newest checkpoint in it, if there is one.
    :param verbose: Whether a progress bar is shown.
    :param training_mode: Whether the model trains in training mode.
    :param adversary: Adversarial training to combine with the penalties, or None.
    :param batch_adapter: Function that turns each batch of a loader into a pair of images and labels, or None.
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
    """The config, overridden by those arguments of `fit` that are not None."""
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
    """Check the data and train any ART PyTorch classifier on them, in place; memory-mapped arrays stay on disk."""
    check_trainable(classifier, options.scheduler)
    reader = Reader(classifier, config, in_input_units(penalties, options.adversary, config))
    images, labels = reader.check(x, y)
    processes = _move(classifier, penalties, config, options)
    batches = reader.arrays(images, labels, least=2 * processes.count)

    @functools.cache  # arrays are read once
    def data(describe: Describer) -> dict[str, str]:
        described = describe_data(images, batches.y)
        changed = any(operation.apply_fit for operation in _preprocessors(classifier))
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
    Train any ART PyTorch classifier on batches of a loader, each checked as it arrives.

    `batch_size` and `drop_last` are up to the loader: one of ART's data generators, or a torch `DataLoader`.
    """
    check_trainable(classifier, options.scheduler)
    carries = options.adversary is not None and options.adversary.carries
    if options.adversary is not None and options.adversary.replays:
        raise ValueError(f"`adversary` is {options.adversary!r}, which trains on arrays; got a loader, expected `fit`.")
    reader = Reader(classifier, config, in_input_units(penalties, options.adversary, config), indexed=carries)
    source = loader_source(loader, options.batch_adapter)
    if isinstance(loader, NumpyDataGenerator) and options.batch_adapter is None:
        reader.check(loader.x, loader.y)  # all of it, before any weight moves
    processes = _move(classifier, penalties, config, options)
    batches = reader.loader(source)
    return _train(reader, penalties, batches, lambda describe: describe_source(source, describe), options, processes)


def in_input_units(
    penalties: Sequence[Penalty], adversary: Adversary | None = None, config: TrainingConfig | None = None
) -> list[str]:
    """The names of the arguments that are in the unit of the training images, for messages."""
    measured = any(not isinstance(penalty, BayesianKL) for penalty in active_penalties(penalties))
    augmentation = None if config is None else config.augmentation
    fills = augmentation is not None and bool(augmentation.crop_padding or augmentation.cutout)
    return ["`penalties`"] * measured + ["`adversary`"] * (adversary is not None) + ["`augmentation`"] * fills


def _train(
    reader: Reader,
    penalties: Sequence[Penalty],
    batches: TensorBatches | LoaderBatches,
    data: DescribeData,
    options: FitOptions,
    processes: Processes,
) -> History:
    classifier, config = reader.classifier, reader.config
    inputs, mode = batches.look(LOOK), options.training_mode
    if config.augmentation is not None:
        _check_augmented(config.augmentation, classifier, inputs)
    model, objective = prepare_training(classifier, penalties, inputs, options.adversary, mode)
    if config.accumulate > 1:
        check_divisible(objective, model, *batches.sample(LOOK))
    replays = 0 if options.adversary is None else options.adversary.replays
    validation = reader.held_out(options.validation_data, options.batch_adapter)
    setup = RunSetup(
        model=model,
        objective=objective,
        batches=Replayed(batches, replays) if replays and isinstance(batches, TensorBatches) else batches,
        optimizer=classifier.optimizer,
        config=config,
        scheduler=options.scheduler,
        validation=validation,
        guard=overfitting_guard(options.adversary, config, batches, validation),
        processes=processes,
        training_mode=mode,
        verbose=options.verbose and processes.rank == 0,
    )
    if options.checkpoint_dir is None:
        return train(setup)
    folder, describe = Path(options.checkpoint_dir).expanduser(), _description(classifier, setup, data)
    with Checkpoints(folder, config.keep, options.resume, describe, processes) as checkpoints:
        return train(replace(setup, checkpoints=checkpoints))


def _check_augmented(augmentation: Augmentation, classifier: PyTorchClassifier, images: torch.Tensor) -> None:
    if not classifier.channels_first:
        raise ValueError(
            f"`augmentation` is {augmentation!r} with `channels_first=False`; expected a classifier of images of shape "
            "(channels, height, width)."
        )
    augmentation.check(tuple(images.shape))


def overfitting_guard(
    adversary: Adversary | None,
    config: TrainingConfig,
    batches: TensorBatches | LoaderBatches,
    validation: HeldOut | None,
) -> OverfittingGuard | None:
    """A guard for adversarial training with one step, or with two, which has been seen to collapse as well."""
    if adversary is None or adversary.steps > 2 or config.on_catastrophic_overfitting == "ignore":
        return None
    x, y = batches.sample(POINTS) if validation is None else validation.sample(POINTS)
    data = HeldOutTensors(x.to(batches.device), y.to(batches.device))
    watched = Watched(watched_attacks(adversary.eps, adversary.ball), data)
    action, predicts = config.on_catastrophic_overfitting, adversary.compares_gradients
    return OverfittingGuard(action, watched, predicts=predicts, chance=largest_class(y))


def _move(
    classifier: PyTorchClassifier, penalties: Sequence[Penalty], config: TrainingConfig, options: FitOptions
) -> Processes:
    """Move the classifier to the device of the run, for good, and find the processes that train with this one."""
    device = run_device(classifier, config)
    place(classifier, device)
    for part in (*penalties, options.adversary):
        move(part, device)
    return join_processes(device)


def _description(classifier: PyTorchClassifier, setup: RunSetup, data: DescribeData) -> Callable[[bool], Fingerprint]:
    """
    A function that describes a run, for its checkpoints, as it is at the time of the call.

    After an epoch it looks at loaders a second time: what has changed by then (the counter or cache of a data set) is
    not a setting. Arrays are read once.
    """
    describe = Describer([*own_things(setup), classifier])
    read = functools.cache(lambda used: data(describe))
    scored = functools.cache(lambda used: _describe_held_out(setup.validation, describe))
    used = False

    def described(epoch_over: bool = False) -> Fingerprint:
        nonlocal used
        used = used or epoch_over
        preprocessing: dict[str, str] = {}
        for number, operation in enumerate(_preprocessors(classifier)):
            preprocessing[str(number)] = type(operation).__name__
            preprocessing.update(describe.attributes(f"{number}", operation))
        further = {
            "preprocessing's": preprocessing,
            "validation data's": scored(used and isinstance(setup.validation, HeldOutLoader)),
        }
        return fingerprint(setup, read(used), describe, further)

    return described


def _preprocessors(classifier: PyTorchClassifier) -> list[Any]:
    """The preprocessing of a classifier except mean and standard deviation, which are described with the data."""
    operations = classifier.preprocessing_operations
    return [part for part in operations if not isinstance(part, STANDARDISATIONS)]


def _describe_held_out(validation: HeldOut | None, describe: Describer) -> dict[str, str]:
    if isinstance(validation, HeldOutTensors):
        return describe_data(validation.x, validation.y)
    return describe_source(validation.source, describe) if isinstance(validation, HeldOutLoader) else {}
