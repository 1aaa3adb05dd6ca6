"""`describe`: before training, what each penalty reads, and how large it is relative to the loss."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import indent
from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.art_bridge import (
    Reader,
    check_labels,
    in_input_units,
    is_own,
    layers_of,
    model_dtype,
    prepare_training,
    trained_parameters,
)
from art_sensreg.objectives import Objective
from art_sensreg.outputs import predicted_classes
from art_sensreg.penalties.effect import TappedLayer, TrainedBatch, penalty_effect
from art_sensreg.penalties.forward.main_output import main_logits, with_main_output
from art_sensreg.penalties.forward.row_coupling import LOOK
from art_sensreg.penalties.forward.taps import trial
from art_sensreg.penalty_lists import Penalty, active_penalties, check_penalties
from art_sensreg.presets import default_penalties, sr_jr
from art_sensreg.training.config import TrainingConfig
from art_sensreg.utils import check_count, enable_grad, shown
from art_sensreg.utils.arrays import shape_or_type
from art_sensreg.utils.model_rng import preserve_model, preserve_rng_state
from art_sensreg.utils.modes import eval_mode, set_mode
from art_sensreg.utils.tables import Table


@dataclass(frozen=True)
class PenaltyDescription:
    """
    One penalty on one batch.

    :param name: Its name in the history.
    :param weight: Its weight.
    :param value: Its unweighted value.
    :param gradient: Norm of the gradient of that value with respect to the trained weights.
    :param share: Weighted value over base loss.
    :param has_effect: Whether it can move a trained weight.
    :param layers: The layers it reads, in the order of the forward pass.
    """

    name: str
    weight: float
    value: float
    gradient: float
    share: float
    has_effect: bool
    layers: tuple[TappedLayer, ...]

    @property
    def weighted(self) -> float:
        """What it adds to the loss."""
        return self.weight * self.value


@dataclass(frozen=True, repr=False)
class Description:
    """
    The result of :func:`describe`; it prints as a table.

    :param rows: Size of the batch.
    :param labels: Where the labels of the base loss come from.
    :param base_loss: The base loss.
    :param penalties: The penalties.
    """

    rows: int
    labels: str
    base_loss: float
    penalties: tuple[PenaltyDescription, ...]

    @property
    def layers(self) -> tuple[TappedLayer, ...]:
        """The layers that all penalties read."""
        return tuple(layer for penalty in self.penalties for layer in penalty.layers)

    def __str__(self) -> str:
        lines = [f"base loss {self.base_loss:.4g} ({self.rows} rows, labels: {self.labels})"]
        for penalty in self.penalties:
            effect = f"gradient {penalty.gradient:.3g}" if penalty.has_effect else "NO EFFECT on any trained weight"
            size = f"value {penalty.value:.4g}, weight {penalty.weight:g}, weighted {penalty.weighted:.4g}"
            lines.append(f"{penalty.name}: {size} ({100 * penalty.share:.3g} % of the base loss), {effect}")
            if penalty.layers:
                lines.append(indent(_table_of(penalty.layers).as_text(), "  "))
        return "\n".join(lines)

    __repr__ = __str__


@enable_grad()
def describe(
    model: nn.Module | PyTorchClassifier,
    x: Any,
    y: Any = None,
    penalties: Sequence[Penalty] | None = None,
    rows: int = 128,
) -> Description:
    """
    Show, before training, what each penalty reads, how large it is relative to the base loss, and whether it has any
    effect.

    Everything is measured as in a training step, in training mode; the model does not change.

    :param model: A classifier; or a module from `(n, ...)` inputs to `(n, C)` logits, with cross-entropy as loss.
    :param x: Inputs `(n, ...)`, an array (of a module also a tensor), in the user's input units.
    :param y: Labels, as for `fit`; None: what the model predicts, for which the base loss is as small as it can be.
    :param penalties: The penalties; None: those that `SensRegTrainer` would use. Those with weight 0 are left out.
    :param rows: Maximum number of inputs that are used (the first ones).
    :return: The description, to be printed.
    :raises TypeError: If an argument has the wrong type.
    :raises ValueError: If an argument is out of range, a penalty does not fit the model, or nothing trains at all.

    Example:
    >>> from art_sensreg import describe
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> description = describe(model, torch.rand(16, 1, 2, 2))
    >>> [(penalty.name, penalty.has_effect) for penalty in description.penalties]
    [('sensitivity', True), ('jacobian', True)]
    >>> [(layer.name, layer.module, layer.shape, layer.trains) for layer in description.layers]
    [('relu', '2', (8,), True)]
    """
    check_count("rows", rows)
    if not isinstance(model, (nn.Module, PyTorchClassifier)):
        raise TypeError(f"`model` is {type(model).__name__}; expected a torch module or an ART PyTorchClassifier.")
    if penalties is None:
        penalties = default_penalties(model) if isinstance(model, PyTorchClassifier) else sr_jr()
    penalties = check_penalties(penalties)
    own = model.model if isinstance(model, PyTorchClassifier) else model
    device = next((parameter.device for parameter in own.parameters()), torch.device("cpu"))
    with eval_mode(own), preserve_rng_state(device, module=own), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Penalties without effect")  # the table says so
        if isinstance(model, PyTorchClassifier):
            batch = _classifier_batch(model, penalties, x, y, rows)
        else:
            batch = _module_batch(model, penalties, x, y, rows)
        set_mode(batch.model, True)
        base, values, gradients = _terms(batch)
        found = []
        for name, penalty in zip(batch.objective.names, active_penalties(penalties), strict=True):
            layers = layers_of(penalty, batch.model, batch.x, batch.parameters)
            effect = gradients[name] > 0
            if is_own(penalty):
                effect = penalty_effect(penalty, batch.trained)
            effect = effect and (not layers or any(layer.trains for layer in layers))
            weight = float(getattr(penalty, "weight", 1.0))
            share = weight * values[name] / base if base else float("inf")
            found.append(
                PenaltyDescription(
                    name=name,
                    weight=weight,
                    value=values[name],
                    gradient=gradients[name],
                    share=share,
                    has_effect=effect,
                    layers=layers,
                )
            )
    origin = "the model's own predictions" if y is None else "given"
    return Description(len(batch.x), origin, base, tuple(found))


@dataclass(frozen=True)
class _Batch:
    """What `fit` would train on: the function, its objective, a batch, and the weights that are trained."""

    model: nn.Module
    objective: Objective
    x: torch.Tensor
    y: torch.Tensor
    parameters: list[nn.Parameter]

    @property
    def trained(self) -> TrainedBatch:
        bounds, plan = self.objective.clip_values, self.objective.plan
        return TrainedBatch(
            model=self.model, x=self.x, y=self.y, parameters=self.parameters, clip_values=bounds, plan=plan
        )


def _terms(batch: _Batch) -> tuple[float, dict[str, float], dict[str, float]]:
    """The base loss, and value and gradient norm of each penalty, of one training step that is not taken."""
    model, objective, parameters = batch.model, batch.objective, batch.parameters
    gradients = {}
    with preserve_model(model, batch.x.device, seed=0), torch.enable_grad():
        terms, _ = objective(model, batch.x, batch.y)
        for name in objective.names:
            squares = []
            if terms[name].requires_grad:
                found = torch.autograd.grad(terms[name], parameters, allow_unused=True, retain_graph=True)
                squares = [float(gradient.float().pow(2).sum()) for gradient in found if gradient is not None]
            gradients[name] = sum(squares) ** 0.5
    return float(terms["base"].detach()), {name: float(terms[name].detach()) for name in objective.names}, gradients


def _classifier_batch(classifier: PyTorchClassifier, penalties: Sequence[Penalty], x: Any, y: Any, rows: int) -> _Batch:
    reader = Reader(classifier, TrainingConfig(batch_size=rows), in_input_units(penalties))
    images, labels = reader.check(
        x, np.zeros(len(x) if hasattr(x, "__len__") else 0, dtype=np.int64) if y is None else y
    )
    images, labels = images[:rows], labels[:rows]
    if y is None:
        labels = predicted_classes(classifier.predict(images), classifier)
    inputs, targets = reader.arrays(images, labels).sample(rows)
    function, objective = prepare_training(classifier, penalties, inputs[:LOOK])
    return _Batch(function, objective, inputs, targets, trained_parameters(classifier))


def _module_batch(model: nn.Module, penalties: Sequence[Penalty], x: Any, y: Any, rows: int) -> _Batch:
    """The batch of a bare module: with cross-entropy, and every parameter that requires gradients."""
    first = next(model.parameters(), torch.zeros(()))
    if not isinstance(x, (np.ndarray, torch.Tensor)) or (isinstance(x, np.ndarray) and x.dtype.kind not in "fiub"):
        raise TypeError(f"`x` is {shown(x)}; expected an array or a tensor of inputs (n, ...).")
    inputs = torch.as_tensor(x)
    if not inputs.is_floating_point() or inputs.ndim < 2 or not len(inputs):
        raise ValueError(
            f"`x` has shape {tuple(inputs.shape)} and dtype {inputs.dtype}; expected floating point inputs (n, ...)."
        )
    if not torch.isfinite(inputs[:rows]).all():
        raise ValueError("`x` has NaN or infinite values; expected finite inputs.")
    inputs = inputs[:rows].detach().to(first.device, model_dtype(model))
    with trial(model, inputs):
        logits = main_logits(model(inputs.clone()))
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != len(inputs) or logits.shape[1] < 2:
        came = shape_or_type(logits)
        raise ValueError(
            f"`model` returns {came} for {len(inputs)} inputs; expected logits (n, C) of at least two classes. For "
            "another loss than cross-entropy, describe a classifier."
        )
    classes = logits.shape[1]
    labels = logits.argmax(1) if y is None else torch.as_tensor(_targets_of(y, classes, x)[:rows])
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("`model` has no parameter that requires a gradient; expected something to train.")
    objective = Objective(penalties)
    function = with_main_output(model, inputs[:2], (classes,), training_mode=True)
    set_mode(function, True)
    objective.prepare(function, inputs[:LOOK])
    return _Batch(function, objective, inputs, labels.to(first.device), parameters)


def _targets_of(y: Any, classes: int, x: Any) -> np.ndarray:
    """Class indices, or class probabilities where labels are soft."""
    labels = check_labels(y.detach().cpu().numpy() if isinstance(y, torch.Tensor) else y, classes, len(x))
    hard: np.ndarray = labels.argmax(1) if labels.ndim == 2 and (labels.max(1) == 1).all() else labels
    return hard


def _table_of(layers: Sequence[TappedLayer]) -> Table:
    rows = [
        [str(number), layer.name, layer.module, str(layer.shape), str(layer.neurons), "yes" if layer.trains else "NO"]
        for number, layer in enumerate(layers, 1)
    ]
    words = ["tapped", "module", "shape", "moves a trained weight"]
    return Table(["layer", *words[:3], "neurons", words[3]], rows, words)
