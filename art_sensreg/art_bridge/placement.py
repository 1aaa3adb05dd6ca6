"""Moves a classifier and everything it computes with to one device."""

from __future__ import annotations

import functools
import os
from typing import Any

import torch
import torch.distributed as dist
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.training.config import TrainingConfig, check_device
from art_sensreg.training.distributed import local_device
from art_sensreg.training.optimizers import match_device


def run_device(classifier: PyTorchClassifier, config: TrainingConfig) -> torch.device:
    """
    The device of a run: the config's, else the classifier's.

    Each process of `torchrun` uses the GPU of its local rank, unless another index was asked for: ART puts every
    classifier on the first GPU, which the user did not choose.
    """
    device = check_device(classifier.device if config.device is None else config.device)
    several = dist.is_available() and dist.is_torchelastic_launched() and int(os.environ.get("WORLD_SIZE", "1")) > 1
    if config.device is None and several and device.type == "cuda" and device.index == 0:
        device = torch.device("cuda")
    return local_device(device)


def place(classifier: PyTorchClassifier, device: torch.device) -> None:
    """Move a classifier to a device: its model, loss, preprocessing, and the state of its optimizer."""
    if device != classifier.device:
        classifier._device = device
        classifier._device_type = "cpu" if device.type == "cpu" else "gpu"
        classifier.model.to(device)
    move(classifier._loss, device)
    for operation in classifier.preprocessing_operations:
        if hasattr(operation, "_device"):
            operation._device = device
        move(operation, device)
    if classifier._optimizer is not None:
        match_device(classifier._optimizer)


def move(thing: Any, device: torch.device) -> None:
    """
    Move whatever a loss, preprocessor or penalty computes with to a device, in place.

    That is a module, or the modules and tensors among the attributes of any object (in lists and dicts too) or among
    the arguments of a `functools.partial`. Variables in a function's closure cannot be moved.
    """
    if isinstance(thing, functools.partial):
        moved = {name: _moved(value, device) for name, value in thing.keywords.items()}
        thing.keywords.update(moved)
        move(thing.func, device)
        return
    modules = [thing]
    if isinstance(thing, nn.Module):
        thing.to(device)
        modules = list(thing.modules())
    for module in modules:
        for name, value in list(getattr(module, "__dict__", {}).items()):
            new = value if name in _REGISTERED else _moved(value, device)
            if new is not value:
                object.__setattr__(module, name, new)  # of a frozen dataclass too


# Where torch keeps what `Module.to` has moved.
_REGISTERED = ("_parameters", "_buffers", "_modules")


def _moved(value: Any, device: torch.device) -> Any:
    """The value on the device; the same object if there is nothing to move, or if it was moved in place."""
    if isinstance(value, torch.Tensor):
        if value.device == device:
            return value
        if not value.requires_grad:
            return value.to(device)
        value.data = value.data.to(device)  # an optimizer may hold it
    elif isinstance(value, nn.Module):
        move(value, device)
    elif type(value) in (list, tuple):
        moved = [_moved(part, device) for part in value]
        if any(new is not old for new, old in zip(moved, value, strict=True)):
            return type(value)(moved)
    elif type(value) is dict:
        changed = {key: _moved(part, device) for key, part in value.items()}
        if any(changed[key] is not part for key, part in value.items()):
            return changed
    return value
