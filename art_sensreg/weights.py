"""Weights and optimizers in files and in copies. Files run no code when they are read."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, load_model, save_model
from torch import nn


def save_weights(base: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
    """
    Write `base.safetensors` and, with an optimizer, `base.optimizer.pt`; each aside first, then renamed.

    :param base: Path without ending; its folder is made if missing.
    :param model: The model.
    :param optimizer: Its optimizer, or None.
    """
    base.parent.mkdir(parents=True, exist_ok=True)
    _write_aside(f"{base}.safetensors", lambda target: save_model(model, target))
    if optimizer is not None:
        state = optimizer.state_dict()
        _write_aside(f"{base}.optimizer.pt", lambda target: torch.save(state, target))


def load_weights(base: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None, device: torch.device) -> None:
    """
    Read what :func:`save_weights` wrote; everything is compared before anything is copied.

    :param base: Path without ending.
    :param model: Model of the same architecture.
    :param optimizer: Optimizer of the same kind, or None.
    :param device: Where the weights go.
    :raises FileNotFoundError: If there is no such file.
    :raises ValueError: If architecture or optimizer are others.
    """
    state = None
    optimizer_file = Path(f"{base}.optimizer.pt")
    if optimizer is not None and optimizer_file.exists():
        state = torch.load(optimizer_file, map_location=device, weights_only=True)
        _check_same_optimizer(optimizer, state)
    _check_same_architecture(model, load_file(f"{base}.safetensors"))
    load_model(model, f"{base}.safetensors", device=str(device))
    if optimizer is not None and state is not None:
        optimizer.load_state_dict(state)


def _check_same_architecture(model: nn.Module, stored: dict[str, torch.Tensor]) -> None:
    """Compare names and shapes; of tied weights the file holds one."""
    own = model.state_dict()
    in_file = {own[name].data_ptr() for name in stored if name in own}
    missing = [name for name, value in own.items() if name not in stored and value.data_ptr() not in in_file]
    for name, value in stored.items():
        if name not in own:
            raise ValueError(
                f"The file holds {name!r}; expected weights of this architecture, which has none of that name."
            )
        if value.shape != own[name].shape:
            came, expected = tuple(value.shape), tuple(own[name].shape)
            raise ValueError(f"The file holds {name!r} of shape {came}; expected {expected} in this architecture.")
    if missing:
        raise ValueError(f"The file has no {missing[0]!r}; expected it in this architecture.")


def _check_same_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    own = [(sorted(group), len(group["params"])) for group in optimizer.state_dict()["param_groups"]]
    stored = [(sorted(group), len(group["params"])) for group in state["param_groups"]]
    if [count for _, count in own] != [count for _, count in stored] or any(
        not set(mine) - {"initial_lr"} <= set(theirs) for (mine, _), (theirs, _) in zip(own, stored, strict=True)
    ):
        raise ValueError(f"The file holds the state of another optimizer; expected one of {type(optimizer).__name__}.")


def clone_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, clone: nn.Module) -> torch.optim.Optimizer:
    """
    Make an optimizer of the same kind and settings for a copy of a model; learning rates are those before scheduling.

    :param optimizer: Optimizer of `model`.
    :param model: The original.
    :param clone: Its copy.
    :return: A fresh optimizer with the same parameter groups.
    :raises ValueError: If the optimizer holds a parameter that is not the model's.

    Example:
    >>> from art_sensreg.weights import clone_optimizer
    >>> model = nn.Linear(2, 2)
    >>> optimizer = torch.optim.AdamW([{"params": [model.weight], "lr": 0.5}, {"params": [model.bias]}], lr=0.1)
    >>> [group["lr"] for group in clone_optimizer(optimizer, model, nn.Linear(2, 2)).param_groups]
    [0.5, 0.1]
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    copies = dict(clone.named_parameters())
    groups = []
    for group in optimizer.param_groups:
        if any(id(parameter) not in names for parameter in group["params"]):
            raise ValueError("`optimizer` holds parameters that are not the model's; expected the model's only.")
        settings = {name: value for name, value in group.items() if name not in ("params", "initial_lr")}
        settings["lr"] = group.get("initial_lr", group["lr"])
        groups.append({**settings, "params": [copies[names[id(parameter)]] for parameter in group["params"]]})
    # AdamW keeps settings in `defaults` that its constructor does not take (`decoupled_weight_decay`).
    accepted = inspect.signature(type(optimizer).__init__).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
    defaults = {name: value for name, value in optimizer.defaults.items() if takes_any or name in accepted}
    return type(optimizer)(groups, **defaults)


def _write_aside(target: str, write: Callable[[str], Any]) -> None:
    aside = f"{target}.part"
    try:
        write(aside)
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(aside, target)
    finally:
        Path(aside).unlink(missing_ok=True)
