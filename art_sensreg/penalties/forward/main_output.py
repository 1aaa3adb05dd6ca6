"""Models that return more than logits in training mode: auxiliary heads, named tuples, dictionaries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from art_sensreg.penalties.forward.recomputation import with_graph
from art_sensreg.penalties.forward.trial_rows import trial_rows, with_enough_rows
from art_sensreg.utils import warn_caller
from art_sensreg.utils.autograd import leaves
from art_sensreg.utils.model_rng import preserve_model
from art_sensreg.utils.modes import preserve_mode, set_mode


class ModelWrapper(nn.Module):
    """A model with something before or after it, which shows its own layers and attributes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def __getattr__(self, name: str) -> Any:
        # A user's own penalty may reach into the model, whether it is wrapped or not.
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)

    def __getitem__(self, index: Any) -> Any:
        layers: Any = self.model
        return layers[index]

    def named_modules(self, *args: Any, **kwargs: Any) -> Any:
        # Users name the layers of their own model, not of this wrapper.
        return self.model.named_modules(*args, **kwargs)


class MainLogits(ModelWrapper):
    """A model of whose outputs only the main logits are left (see :func:`main_logits`)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = main_logits(self.model(x))
        return logits


def main_logits(output: Any) -> Any:
    """
    The main logits among a model's outputs; None if there are none.

    A tensor stands for itself; otherwise the attribute or key `logits` (torchvision's and Hugging Face's outputs), the
    key `out`, or the first entry of a tuple or list.
    """
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, Mapping):
        return next((output[key] for key in ("logits", "out") if key in output), None)
    if hasattr(output, "logits"):
        return output.logits
    return output[0] if isinstance(output, (tuple, list)) and output else None


def with_main_output(model: nn.Module, x: torch.Tensor, columns: tuple[int, ...], training_mode: bool) -> nn.Module:
    """
    Look at a model in the mode in which it is trained; of several outputs leave only the main logits.

    :param model: A model that returns logits in evaluation mode. Its modes are restored.
    :param x: Some inputs, `(n, ...)`.
    :param columns: Numbers of columns that logits may have.
    :param training_mode: As for `set_mode`.
    :return: The model; one with several outputs wrapped in :class:`MainLogits`, with a warning of what is trained.
    :raises ValueError: If there are no logits among its outputs, or what it predicts in evaluation mode depends on
        weights of another output than the main one (two heads whose mean is the prediction).
    """
    with preserve_mode(model.modules()):
        set_mode(model, training_mode)
        with torch.no_grad():  # BatchNorm needs two
            rows, output = with_enough_rows(lambda count: _tried(model, trial_rows(x, count)), 2)
        logits = main_logits(output)
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else ()
        if shape not in [(len(rows), count) for count in columns]:
            raise ValueError(
                f"`model` returns {_kind(output)} for {len(rows)} images in the mode in which it is trained; expected "
                f"logits of shape {(len(rows), columns[0])}, alone, first in a tuple, or under the name `logits`."
            )
        if logits is output:
            return model
        with torch.enable_grad():
            output = _outputs(model, rows)
            logits = main_logits(output)
            model.eval()
            predicted = main_logits(_outputs(model, rows))
    others = [value for value in _tensors(output) if value is not logits]
    _check_other_heads(model, logits, others, predicted)
    warn_caller(
        f"`model` returns {_kind(output)} in training mode: its main logits are trained, with base loss and penalties, "
        "and its other outputs are not. For a loss on those give a penalty: `lambda _, x, y: loss(model(x)[1], y)`.",
    )
    return MainLogits(model)


def _check_other_heads(
    model: nn.Module, logits: torch.Tensor, others: list[torch.Tensor], predicted: torch.Tensor
) -> None:
    """Weights that make the prediction, and only other outputs in training mode, would never be trained."""
    untrained = (leaves([predicted]) & leaves(others)) - leaves([logits])
    for name, parameter in model.named_parameters():
        if id(parameter) in untrained:
            raise ValueError(
                f"`model` returns several outputs in training mode, and its prediction depends on {name!r}, which only "
                "an output other than the main one would train (a second head, as for distillation); expected a model "
                "that returns one tensor of logits in training mode."
            )


def _tried(model: nn.Module, rows: torch.Tensor) -> tuple[torch.Tensor, Any]:
    return rows, _outputs(model, rows)


def _outputs(model: nn.Module, rows: torch.Tensor) -> Any:
    with preserve_model(model, rows.device, seed=0), with_graph():
        return model(rows.clone())


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        yield output
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else ()
    for value in values:
        yield from _tensors(value)


def _kind(output: Any) -> str:
    if isinstance(output, torch.Tensor):
        return f"shape {tuple(output.shape)}"
    name = type(output).__name__
    if isinstance(output, Mapping):
        return f"{name} ({', '.join(map(str, output))})"
    fields = getattr(output, "_fields", None)
    if fields:
        return f"{name} ({', '.join(fields)})"
    return f"{name} of {len(output)}" if isinstance(output, (tuple, list)) else name
