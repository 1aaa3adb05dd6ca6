"""ART classifiers that train with penalties: numpy in, numpy out."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from art import config as art_config
from art.estimators.classification import PyTorchClassifier

from art_sensreg.art_bridge.arrays import ArrayInterface
from art_sensreg.art_bridge.classifier_arguments import check_arguments, named_arguments
from art_sensreg.art_bridge.fit import FitOptions, fit_arrays, fit_batches, with_given
from art_sensreg.art_bridge.loaders import BatchAdapter
from art_sensreg.art_bridge.placement import place
from art_sensreg.art_bridge.weights import clone_optimizer, load_weights, save_weights, weights_file
from art_sensreg.penalty_lists import Penalty, check_penalties
from art_sensreg.training.callbacks import History
from art_sensreg.training.checkpoint.loading import check_live_state
from art_sensreg.training.config import TrainingConfig
from art_sensreg.utils import enable_grad
from art_sensreg.utils.checks import check_known

logger = logging.getLogger(__name__)


class SensRegClassifier(ArrayInterface, PyTorchClassifier):
    """
    ART's `PyTorchClassifier` whose `fit` trains with penalties.

    Every ART attack takes it unchanged. Beyond the penalties it mends what stands in the way in ART 1.20.1: inputs of
    any float type are cast to the model's and outputs are float32; `clone_for_refitting` keeps optimizer settings,
    parameter groups and device; `copy.deepcopy` and `pickle` write no files; weights are saved as safetensors.

    | Paper link: https://arxiv.org/abs/2009.11349

    :param args: As for ART's `PyTorchClassifier`: `model` (returns logits), `loss`, `input_shape`, `nb_classes`, ...
    :param penalties: Penalties that `fit` trains with: the package's own, functions `penalty(model, x, y)`, or objects
        with such a `__call__` and a `weight`.
    :param kwargs: As for ART's `PyTorchClassifier`: `optimizer`, `clip_values`, `preprocessing`, `device_type`, ...
    :raises TypeError: If an entry of `penalties` cannot be called.
    :raises ValueError: If a penalty is not usable.

    Example:
    >>> from torch import nn
    >>> from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegClassifier
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> classifier = SensRegClassifier(
    ...     model, nn.CrossEntropyLoss(), (1, 2, 2), 2, optimizer=torch.optim.Adam(model.parameters()),
    ...     clip_values=(0.0, 1.0), penalties=[SensitivityPenalty(), JacobianPenalty()],
    ... )
    >>> x = np.random.default_rng(0).random((20, 1, 2, 2))
    >>> classifier.fit(x, np.arange(20) % 2, nb_epochs=2, seed=0)
    >>> classifier.predict(x).shape, sorted(classifier.history[-1])[:3]
    ((20, 2), ['accuracy', 'base', 'epoch'])
    """

    estimator_params: ClassVar[list[str]] = [*PyTorchClassifier.estimator_params, "penalties"]

    def __init__(self, *args: Any, penalties: Sequence[Penalty] = (), **kwargs: Any) -> None:
        check_arguments(named_arguments(args, kwargs))
        self._penalties: tuple[Penalty, ...] = check_penalties(penalties)
        self.history: History = []
        super().__init__(*args, **kwargs)
        place(self, self._device)

    @property
    def penalties(self) -> tuple[Penalty, ...]:
        """The penalties that `fit` trains with."""
        return self._penalties

    @penalties.setter
    def penalties(self, penalties: Sequence[Penalty]) -> None:
        self._penalties = check_penalties(penalties)

    def set_params(self, **kwargs: Any) -> None:
        """
        Set parameters by name, as `get_params` returns them.

        :param kwargs: Parameters of the classifier.
        :raises TypeError: If a value is of a wrong type; nothing has been set then.
        :raises ValueError: If a name is unknown or a value is not usable; nothing has been set then.
        """
        for name in kwargs:
            if name not in self.estimator_params:
                raise ValueError(f"`{name}` is unknown; expected one of {', '.join(self.estimator_params)}.")
        check_arguments(kwargs, input_shape=self.input_shape)
        if "penalties" in kwargs:
            check_penalties(kwargs["penalties"])
        if kwargs.get("optimizer") is not None:
            check_live_state(kwargs["optimizer"])
        former, operations = self.__dict__.copy(), list(self.preprocessing_operations)
        try:
            self._set_params(kwargs)
        except Exception:
            self.__dict__.clear()
            self.__dict__.update(former)
            self.preprocessing_operations[:] = operations
            raise

    def _set_params(self, given: dict[str, Any]) -> None:
        # ART would put a bare model where its wrapper belongs.
        if "model" in given:
            self._model = self._make_model_wrapper(given["model"])
            self._layer_names = self._model.get_layers
        if given.get("device_type", self.device_type) != self.device_type:
            on_cpu = given["device_type"] == "cpu" or not torch.cuda.is_available()
            self._device = torch.device("cpu") if on_cpu else torch.device("cuda", torch.cuda.current_device())
        super().set_params(**{name: value for name, value in given.items() if name != "model"})
        self._model.to(self._device)
        place(self, self._device)
        if "loss" in given:
            # ART derives from the loss how labels are given to it, in its constructor only.
            like = PyTorchClassifier(
                self.model, self._loss, self.input_shape, self.nb_classes, device_type=self.device_type
            )
            for flag in ("_reduce_labels", "_int_labels", "_probability_labels"):
                setattr(self, flag, getattr(like, flag))

    # --- training -------------------------------------------------------------------------------------------------

    def fit_generator(
        self,
        generator: Any,
        nb_epochs: int | None = None,
        verbose: bool = False,
        validation_data: Any = None,
        scheduler: Any = None,
        seed: int | None = None,
        config: TrainingConfig | None = None,
        checkpoint_dir: str | Path | None = None,
        resume: bool = False,
        batch_adapter: BatchAdapter | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Train on batches drawn from a loader; the record goes to `history`.

        :param generator: One of ART's data generators with a known `size`, or a torch `DataLoader`. The batches of a
            `DataLoader` over an `IterableDataset` without a length are counted first.
        :param nb_epochs: Passes over the data; the config's, or 20.
        :param verbose: Whether a progress bar is shown.
        :param validation_data: Images and labels that are scored after every epoch: a pair, or a loader as for
            `fit_generator`.
        :param scheduler: As for `fit`.
        :param seed: As for `fit`; the order of the batches is the loader's own.
        :param config: As for `fit`.
        :param checkpoint_dir: As for `fit`.
        :param resume: As for `fit`, from the start of an epoch.
        :param batch_adapter: Function that makes of each batch a pair of images and labels, where it is something
            else: `lambda batch: (batch["image"], batch["label"])`. For a validation loader too.
        :param kwargs: Nothing: an unknown argument is an error.
        :raises TypeError: If an argument is unknown or of a wrong type.
        :raises ValueError: If an argument is out of range, or the first batch is unusable.
        """
        check_known("fit_generator()", kwargs, SensRegClassifier.fit_generator)
        settings = with_given(TrainingConfig() if config is None else config, nb_epochs=nb_epochs, seed=seed)
        options = FitOptions(
            validation_data=validation_data,
            scheduler=scheduler,
            checkpoint_dir=checkpoint_dir,
            resume=resume,
            verbose=verbose,
            batch_adapter=batch_adapter,
        )
        self.history = fit_batches(self, self.penalties, settings, generator, options)

    # --- copies and files -------------------------------------------------------------------------------------------

    @enable_grad()  # copies made inside of inference mode could not be trained
    def clone_for_refitting(self) -> SensRegClassifier:
        """
        Make an untrained classifier with the same architecture, optimizer settings, device and arguments.

        :return: The clone; its weights are drawn anew by the modules' own `reset_parameters`.
        :raises ValueError: If there is no optimizer, or it holds parameters that are not the model's.
        """
        if self._optimizer is None:
            raise ValueError("`optimizer` is None; expected one, to give the clone an optimizer of the same kind.")
        model = copy.deepcopy(self.model)
        optimizer = clone_optimizer(self._optimizer, self.model, model)
        clone = type(self)(
            model, self._loss, self.input_shape, self.nb_classes, optimizer=optimizer, device_type=self.device_type
        )
        params = self.get_params()
        clone.set_params(**{name: value for name, value in params.items() if name not in ("model", "optimizer")})
        clone._device = self._device
        clone.model.to(self._device)
        clone.reset()
        return clone

    def reset(self) -> None:
        """Draw the weights anew, by the modules' `reset_parameters`; a warning names weights that have none."""
        kept = []
        for name, module in self.model.named_modules():
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if callable(reset):
                reset()
            else:
                kept += [f"{name}.{own}".lstrip(".") for own, _ in module.named_parameters(recurse=False)]
        if kept:
            logger.warning("These weights have no `reset_parameters` and stay as they are: %s.", ", ".join(kept))

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state["inner_model"] = self._model._model
        # ART's wrapper is a class local to a method, which cannot be pickled; it is made again on the other side.
        for name in ("_model", "_model_wrapper"):
            state.pop(name, None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        model = state.pop("inner_model")
        self.__dict__.update(state)
        self._model = self._make_model_wrapper(model)

    def save(self, filename: str, path: str | None = None) -> None:
        """
        Save the weights, and the optimizer's state if there is one, as one file `filename.safetensors`.

        It is written aside and renamed, so that an interrupted save leaves the former one.

        :param filename: Name without ending, in the folder.
        :param path: Folder, made if missing; ART's data folder if None.
        :raises TypeError: If the model or the optimizer holds what cannot be stored.
        :raises ValueError: If the name leaves the folder.
        :raises OSError: If the file cannot be written.
        """
        save_weights(_file(filename, path), self.model, self._optimizer)

    def load_weights(self, filename: str, path: str | None = None) -> None:
        """
        Load what `save` wrote into this classifier's model, and into its optimizer if both have one. Runs no code.

        Every byte of the file is checked. Plain files of safetensors are read too, with a warning: they have no
        checksum.

        :param filename: Name without ending, in the folder.
        :param path: Folder; ART's data folder if None.
        :raises OSError: If the file cannot be read; `FileNotFoundError` if there is none.
        :raises ValueError: If the file is damaged, or of another architecture or optimizer; nothing has been loaded
            then.
        """
        load_weights(_file(filename, path), self.model, self._optimizer)


def _fit(
    self: SensRegClassifier,
    x: np.ndarray,
    y: np.ndarray,
    batch_size: int | None = None,
    nb_epochs: int | None = None,
    training_mode: bool = True,
    drop_last: bool | None = None,
    scheduler: Any = None,
    verbose: bool = False,
    validation_data: Any = None,
    seed: int | None = None,
    config: TrainingConfig | None = None,
    checkpoint_dir: str | Path | None = None,
    resume: bool = False,
    **kwargs: Any,
) -> None:
    """
    Train on `(x, y)` with this classifier's loss, optimizer and penalties; the record goes to `history`.

    :param x: Images `(n, *input_shape)`, floating point, finite, within `clip_values`; an array mapped from a file is
        read batch by batch.
    :param y: Class indices `(n,)`, or rows `(n, nb_classes)` that sum to 1.
    :param batch_size: Rows of a step; the config's, or 128.
    :param nb_epochs: Passes over the data; the config's, or 10.
    :param training_mode: Whether the model trains in training mode.
    :param drop_last: Whether an incomplete last batch is left out; the config's, or no.
    :param scheduler: Any torch learning rate scheduler; see `TrainingConfig.scheduler_interval`.
    :param verbose: Whether a progress bar is shown.
    :param validation_data: Images and labels that are scored after every epoch: a pair, or a loader as for
            `fit_generator`.
    :param seed: See `TrainingConfig.seed`.
    :param config: All other settings; the arguments above win.
    :param checkpoint_dir: Folder for checkpoints, or None.
    :param resume: Whether to continue from the newest checkpoint in it, if there is one.
    :param kwargs: Nothing: an unknown argument is an error.
    :raises TypeError: If an argument is unknown or of a wrong type.
    :raises ValueError: If an argument is out of range, before any weight has moved.
    """
    check_known("fit()", kwargs, _fit)
    settings = with_given(
        TrainingConfig(nb_epochs=10) if config is None else config,
        batch_size=batch_size,
        nb_epochs=nb_epochs,
        drop_last=drop_last,
        seed=seed,
    )
    options = FitOptions(
        validation_data=validation_data,
        scheduler=scheduler,
        checkpoint_dir=checkpoint_dir,
        resume=resume,
        verbose=verbose,
        training_mode=training_mode,
    )
    self.history = fit_arrays(self, self.penalties, settings, x, y, options)


_fit.__name__ = "fit"
_fit.__qualname__ = "SensRegClassifier.fit"

# ART's metaclass wraps `fit` and `predict` to convert lists to arrays, and fails on ragged ones or a missing `y` with
# numpy's own errors before ours can name the argument. Put back without the wrapper; the checks convert lists too.
SensRegClassifier.fit = _fit


def _file(filename: str, path: str | None) -> Path:
    return weights_file(filename, art_config.ART_DATA_PATH if path is None else path)
