"""ART classifiers that train with penalties: numpy in, numpy out."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from art import config as art_config
from art.defences.postprocessor.postprocessor import Postprocessor
from art.defences.preprocessor.preprocessor import Preprocessor
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.art_bridge import (
    ArrayInterface,
    TrainInterface,
    as_given,
    check_arguments,
    clone_optimizer,
    load_weights,
    numbers_or_arrays,
    place,
    save_weights,
    weights_file,
)
from art_sensreg.penalty_lists import Penalty, check_penalties
from art_sensreg.training.checkpoint.loading import check_live_state
from art_sensreg.utils import enable_grad

logger = logging.getLogger(__name__)


class SensRegClassifier(TrainInterface, ArrayInterface, PyTorchClassifier):
    """
    ART's `PyTorchClassifier` whose `fit` trains with penalties.

    Every ART attack runs on it unchanged. Besides adding penalties it fixes some obstacles in ART 1.20.1: inputs
    of any float type are cast to the model's and outputs are float32; `clone_for_refitting` keeps optimizer settings,
    parameter groups and device; `copy.deepcopy` and `pickle` write no files; weights are saved as safetensors.

    | Paper link: https://arxiv.org/abs/2009.11349

    :param model: Module from images to logits.
    :param loss: Function of logits and labels, such as `nn.CrossEntropyLoss()`; None: it only predicts.
    :param input_shape: Shape of one image.
    :param nb_classes: Number of classes.
    :param optimizer: Optimizer of the model's parameters, to train with.
    :param use_amp: As for ART's `PyTorchClassifier` (apex); `TrainingConfig.precision` is torch's mixed precision.
    :param opt_level: As for ART's.
    :param loss_scale: As for ART's.
    :param channels_first: As for ART's.
    :param clip_values: Range `(min, max)` of the images, numbers or arrays.
    :param preprocessing_defences: ART preprocessors.
    :param postprocessing_defences: ART postprocessors.
    :param preprocessing: `(mean, std)` of a standardisation, an ART preprocessor, or None.
    :param device_type: `gpu`, if there is one, or `cpu`.
    :param penalties: Penalties that `fit` trains with: the package's own, functions `penalty(model, x, y)`, or objects
        with such a `__call__` and a `weight`. `[]`: none. None: none either, but the first `fit` warns.
    :raises TypeError: If an argument has the wrong type, or an entry of `penalties` is not callable.
    :raises ValueError: If an argument is out of range, or a penalty is unusable.

    Example:
    >>> import numpy as np
    >>> from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegClassifier
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> classifier = SensRegClassifier(
    ...     model, nn.CrossEntropyLoss(), (1, 2, 2), 2, optimizer=torch.optim.Adam(model.parameters()),
    ...     clip_values=(0.0, 1.0), penalties=[SensitivityPenalty(), JacobianPenalty()],
    ... )
    >>> x = np.random.default_rng(0).random((20, 1, 2, 2))
    >>> classifier.fit(x, np.arange(20) % 2, nb_epochs=2, seed=0, verbose=False)
    >>> classifier.predict(x).shape, sorted(classifier.history[-1])[:3]
    ((20, 2), ['accuracy', 'base', 'epoch'])
    """

    estimator_params: ClassVar[list[str]] = [*PyTorchClassifier.estimator_params, "penalties"]

    def __init__(
        self,
        model: nn.Module,
        loss: Any,
        input_shape: tuple[int, ...],
        nb_classes: int,
        optimizer: torch.optim.Optimizer | None = None,
        use_amp: bool = False,
        opt_level: str = "O1",
        loss_scale: float | str | None = "dynamic",
        channels_first: bool = True,
        clip_values: Any = None,
        preprocessing_defences: Preprocessor | list[Preprocessor] | None = None,
        postprocessing_defences: Postprocessor | list[Postprocessor] | None = None,
        preprocessing: Any = (0.0, 1.0),
        device_type: str = "gpu",
        *,
        penalties: Sequence[Penalty] | None = None,
    ) -> None:
        arguments = {
            "model": model,
            "loss": loss,
            "input_shape": input_shape,
            "nb_classes": nb_classes,
            "optimizer": optimizer,
            "use_amp": use_amp,
            "opt_level": opt_level,
            "loss_scale": loss_scale,
            "channels_first": channels_first,
            "clip_values": clip_values,
            "preprocessing_defences": preprocessing_defences,
            "postprocessing_defences": postprocessing_defences,
            "preprocessing": preprocessing,
            "device_type": device_type,
        }
        check_arguments(arguments)
        super().__init__(**arguments, penalties=penalties)
        place(self, self._device)

    def __repr__(self) -> str:
        """The call that creates it, with `model` and `optimizer` as placeholders and without default values."""
        defaults = {name: value.default for name, value in inspect.signature(SensRegClassifier).parameters.items()}
        values: dict[str, Any] = {name: getattr(self, name) for name in (*defaults, *self.estimator_params)}
        values["clip_values"] = numbers_or_arrays(self.clip_values)
        values["preprocessing"] = as_given(self.preprocessing)
        values["penalties"] = None if self._penalties is None else list(self._penalties)
        given = {name: repr(value) for name, value in values.items() if repr(value) != repr(defaults.get(name))}
        given |= {name: name for name in ("model", "optimizer") if name in given}
        return f"{type(self).__name__}({', '.join(f'{name}={text}' for name, text in given.items())})"

    def set_params(self, **kwargs: Any) -> None:
        """
        Set parameters by name, as `get_params` returns them.

        :param kwargs: Parameters of the classifier.
        :raises TypeError: If a value has the wrong type; nothing has been set then.
        :raises ValueError: If a name is unknown or a value is unusable; nothing has been set then.
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
        # ART would store a bare model in place of its wrapper.
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
            # ART derives the form of the labels from the loss, but only in its constructor.
            like = PyTorchClassifier(
                self.model, self._loss, self.input_shape, self.nb_classes, device_type=self.device_type
            )
            for flag in ("_reduce_labels", "_int_labels", "_probability_labels"):
                setattr(self, flag, getattr(like, flag))

    # --- copies and files -------------------------------------------------------------------------------------------

    @enable_grad()  # copies made inside inference mode could not be trained
    def clone_for_refitting(self) -> SensRegClassifier:
        """
        Make an untrained classifier with the same architecture, optimizer settings, device and arguments.

        :return: The clone; its weights are reinitialised by the modules' own `reset_parameters`.
        :raises ValueError: If there is no optimizer, or it contains parameters that are not the model's.
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
        clone._penalties = self._penalties
        clone._device = self._device
        clone.model.to(self._device)
        clone.reset()
        return clone

    def reset(self) -> None:
        """Reinitialise the weights with the modules' `reset_parameters`; a warning names weights without one."""
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
        # ART's wrapper is a class local to a method, which cannot be pickled; it is recreated on the other side.
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

        It is written under a temporary name and renamed, so that an interrupted save leaves the previous file intact.

        :param filename: Name without extension, in the folder.
        :param path: Folder, created if missing; ART's data folder if None.
        :raises TypeError: If the model or the optimizer contains something that cannot be stored.
        :raises ValueError: If the name points outside the folder.
        :raises OSError: If the file cannot be written.
        """
        save_weights(_file(filename, path), self.model, self._optimizer)

    def load_weights(self, filename: str, path: str | None = None) -> None:
        """
        Load what `save` wrote into this classifier's model, and into its optimizer if both have one. Executes no code.

        Every byte of the file is checked. Plain safetensors files are read too, with a warning: they have no checksum.

        :param filename: Name without extension, in the folder.
        :param path: Folder; ART's data folder if None.
        :raises OSError: If the file cannot be read; `FileNotFoundError` if there is none.
        :raises ValueError: If the file is damaged, or belongs to another architecture or optimizer; nothing has been
            loaded then.
        """
        load_weights(_file(filename, path), self.model, self._optimizer)


def _file(filename: str, path: str | None) -> Path:
    return weights_file(filename, art_config.ART_DATA_PATH if path is None else path)
