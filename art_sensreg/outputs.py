"""The class that a model's output stands for: the largest logit, or for a single output, whatever its loss implies."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from art_sensreg.utils.precision import at_least_float32

# What a single output can be: the logit of class 1, or its probability.
KINDS = ("logit", "probability")

_LOSSES = {"probability": nn.BCELoss, "logit": nn.BCEWithLogitsLoss}
_IN_PLACE = {torch.sigmoid_, torch.Tensor.sigmoid_}
_FUNCTIONS = {F.binary_cross_entropy: "probability", F.binary_cross_entropy_with_logits: "logit"}
_SIGMOIDS = {torch.sigmoid, torch.Tensor.sigmoid, torch.special.expit, *_IN_PLACE}

_CLAMPS = {torch.clamp, torch.clip, torch.Tensor.clamp, torch.Tensor.clip, torch.Tensor.clamp_, torch.Tensor.clip_}


def _name(loss: Any) -> str:
    return str(getattr(loss, "__name__", type(loss).__name__))


def _known_kind(loss: Any) -> str | None:
    said = getattr(loss, "single_output", None)
    if isinstance(said, str) and said in KINDS:
        return said
    for kind, known in _LOSSES.items():
        if isinstance(loss, known):
            return kind
    while isinstance(loss, functools.partial):
        loss = loss.func
    return next((kind for function, kind in _FUNCTIONS.items() if loss is function), None)


@dataclass(frozen=True)
class SingleOutput:
    """
    What a classifier's single output would be, kept apart from the classifier so that it can be copied.

    `kind` is `logit`, `probability`, or None where the loss, whose name is `loss`, does not tell.
    """

    kind: str | None
    loss: str
    nb_classes: int

    @classmethod
    def of(cls, classifier: Any) -> SingleOutput:
        """What an ART classifier's loss and its number of classes say."""
        return cls(_known_kind(classifier.loss), _name(classifier.loss), int(classifier.nb_classes))

    def check(self) -> str:
        """
        The kind, once a model has turned out to have one output. ValueError if the loss does not tell, or there are
        more than two classes.
        """
        if self.nb_classes > 2:
            raise ValueError(f"`nb_classes` is {self.nb_classes} and the model has one output; expected 2.")
        if self.kind is None:
            raise ValueError(
                f"`loss` is {self.loss} and the model has one output; expected BCELoss (the output is the probability "
                "of class 1) or BCEWithLogitsLoss (its logit). For another loss say which: `loss.single_output = "
                "'logit'` or 'probability'; or let the model return one logit a class."
            )
        return self.kind


def class_logits(model: nn.Module, x: torch.Tensor, single: SingleOutput, rows: int = 1) -> torch.Tensor:
    """
    Logits of all classes, differentiably; of a model with one output two columns, `[0, z]`. Outputs are averaged over
    the `rows` successive entries of `x` that belong to one image.

    `z` is the output itself if that is a logit. If it is a probability, `z` is the input of the sigmoid that it comes
    from (whether or not it was clamped afterwards), or else `log p - log(1 - p)`: a probability rounded to 0 or 1 has
    no gradient, and a model that ends in a sigmoid would look robust wherever it is sure.

    TypeError if the model returns no tensor; ValueError if its shape is another one, the loss does not tell, or there
    are more than two classes for one output.
    """
    if rows > 1:
        output = _columns(model(x), single)
        output = output.unflatten(0, (-1, rows)).mean(1)
        if output.shape[1] == 1 and single.kind == "probability":
            output = _log_odds(output)
    elif single.kind == "probability":
        with _Sigmoids() as sigmoids:
            output = _columns(model(x), single)
        if output.shape[1] == 1:
            z = sigmoids.input_of(output)
            output = _log_odds(output) if z is None else z
    else:
        output = _columns(model(x), single)
    if output.shape[1] > 1:
        return output
    single.check()
    return torch.cat([torch.zeros_like(output), output], dim=1)


def class_scores(outputs: np.ndarray, classifier: Any) -> np.ndarray:
    """
    A column for each class, `(n, C)`, from what a classifier predicted; the predicted class is the largest. A single
    output becomes `[0, z]`, or of a probability `[1 - p, p]`. ValueError if the loss does not tell which of the two it
    is, or probabilities are outside [0, 1].
    """
    columns = np.asarray(outputs)
    columns = columns[:, None] if columns.ndim == 1 else columns
    if columns.ndim != 2:
        raise ValueError(f"`classifier` predicts shape {columns.shape}; expected (n, {classifier.nb_classes}).")
    if columns.shape[1] > 1:
        return columns
    if SingleOutput.of(classifier).check() == "logit":
        return np.concatenate([np.zeros_like(columns), columns], axis=1)
    if ((columns < 0) | (columns > 1)).any():
        raise ValueError(
            f"`classifier` predicts {columns.min():g} to {columns.max():g} and its loss takes probabilities; expected "
            "values from 0 to 1: end the model in a sigmoid, or use BCEWithLogitsLoss."
        )
    return np.concatenate([1 - columns, columns], axis=1)


def predicted_classes(outputs: np.ndarray, classifier: Any) -> np.ndarray:
    """The class of each prediction, an int64 array `(n,)`; arguments and errors as for :func:`class_scores`."""
    if not len(outputs):
        return np.zeros(0, dtype=np.int64)
    classes: np.ndarray = class_scores(outputs, classifier).argmax(axis=1)
    return classes


def single_output_threshold(loss: Any) -> float:
    """Where a single output turns to class 1: 0 for a logit, 0.5 for a probability, NaN if the loss does not tell."""
    kind = _known_kind(loss)
    return float("nan") if kind is None else {"logit": 0.0, "probability": 0.5}[kind]


def _columns(output: Any, single: SingleOutput) -> torch.Tensor:
    """A model's output as `(n, C)`, or `(n, 1)`."""
    expected = f"logits (n, {single.nb_classes})" + (", or one output each" if single.nb_classes == 2 else "")
    if not isinstance(output, torch.Tensor):
        raise TypeError(f"`model` returns {type(output).__name__}; expected {expected}.")
    columns = output[:, None] if output.ndim == 1 else output
    if columns.ndim != 2 or columns.shape[1] not in (1, single.nb_classes):
        raise ValueError(f"`model` returns shape {tuple(output.shape)}; expected {expected}.")
    return columns


def _log_odds(p: torch.Tensor) -> torch.Tensor:
    wide = at_least_float32(p)
    info = torch.finfo(wide.dtype)
    wide = wide.clamp(info.tiny, 1 - info.eps / 2)
    return (wide.log() - torch.log1p(-wide)).to(p.dtype)


class _Sigmoids(TorchFunctionMode):
    """Notes what each sigmoid that ran inside was given and returned."""

    def __init__(self) -> None:
        super().__init__()
        self._noted: list[tuple[torch.Tensor, torch.Tensor, int]] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in _CLAMPS and _keeps_class(*args, **(kwargs or {})):
            given = self.input_of(args[0])
            output = function(*args, **(kwargs or {}))
            if given is not None and not output.is_inference():
                self._noted.append((given, output, output._version))
            return output
        if function not in _SIGMOIDS or not args:
            return function(*args, **(kwargs or {}))
        # In place, the input is gone afterwards.
        given = args[0].clone() if function in _IN_PLACE else args[0]
        output = function(*args, **(kwargs or {}))
        if not output.is_inference():
            self._noted.append((given, output, output._version))
        return output

    def input_of(self, output: torch.Tensor) -> torch.Tensor | None:
        """The logits whose sigmoid an output is; None if it is something else, or something was done to it since."""
        for given, returned, version in reversed(self._noted):
            if returned._version == version and (output is returned or _same_memory(output, returned)):
                return given.reshape(output.shape)
        return None


def _keeps_class(x: Any, min: Any = None, max: Any = None, **_: Any) -> bool:
    """Whether a clamp with these arguments leaves probabilities on their side of one half."""
    numbers = all(bound is None or isinstance(bound, (int, float)) for bound in (min, max))
    return numbers and (min is None or min < 0.5) and (max is None or max > 0.5)


def _same_memory(output: torch.Tensor, returned: torch.Tensor) -> bool:
    if torch._C._functorch.is_functorch_wrapped_tensor(output) or output.dtype != returned.dtype:
        return False
    start, other = output.untyped_storage().data_ptr(), returned.untyped_storage().data_ptr()
    return (output.numel(), start, output.storage_offset()) == (returned.numel(), other, returned.storage_offset())
