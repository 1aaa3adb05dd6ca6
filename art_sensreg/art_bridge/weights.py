"""Weights and optimizers in files and copies. Files have checksums: damage is refused, and reading executes no code."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import nn

from art_sensreg.training.checkpoint.files import DAMAGE, from_bytes, header_of, read_bytes, to_bytes
from art_sensreg.training.checkpoint.loading import check_model_state, check_optimizer_state
from art_sensreg.utils import shown
from art_sensreg.utils.files import atomic_write

logger = logging.getLogger(__name__)

FORMAT, VERSION = "art_sensreg-weights", 1
ENDING = ".safetensors"

# Names of weights contain no slash, so none can have this name.
_OPTIMIZER = "/optimizer"
_SEALED = {"version", "tree", "tensors", "checksum"}


def weights_file(filename: str, folder: str | Path) -> Path:
    """The file for a name without extension, which may be in a subfolder of `folder` but not outside it."""
    if not isinstance(filename, str):
        raise TypeError(f"`filename` is {filename!r}; expected a name without ending.")
    expected = "expected a name without ending in the folder `path`"
    if Path(filename).name in ("", "..") or filename.endswith("/") or not filename.isprintable():
        raise ValueError(f"`filename` is {filename!r}; {expected}.")
    if not isinstance(folder, (str, Path)):
        raise TypeError(f"`path` is {folder!r}; expected a folder.")
    if "\0" in str(folder):
        raise ValueError(f"`path` is {shown(str(folder))}; expected a folder.")
    folder = Path(folder)
    file = folder / f"{filename}{ENDING}"
    if not file.parent.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"`filename` is {filename!r}, which leaves the folder {str(folder)!r}; {expected}.")
    return file


def save_weights(file: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
    """
    Write the weights of a model, and the state of its optimizer if any, to one safetensors file with checksums.

    The tensors have their names in the model's `state_dict`; those of the optimizer begin with `/optimizer`. The file
    is first written under a temporary name, then renamed.
    """
    tree: dict[str, Any] = dict(model.state_dict())
    if optimizer is not None:
        tree[_OPTIMIZER] = {"class": type(optimizer).__qualname__, **optimizer.state_dict()}
    data = to_bytes(tree, FORMAT, VERSION)
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, data)


def load_weights(
    file: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None = None, warn: bool = True
) -> None:
    """
    Read what :func:`save_weights` wrote; every byte and every tensor is checked before anything is copied.

    Plain safetensors files, from other programs or version 0.1, are read too: a warning says (unless not wanted) that
    nothing protects them from damage, and the optimizer is left unchanged.
    """
    try:
        weights = _read(file, model, warn)
    except DAMAGE as error:
        raise ValueError(f"{str(file)!r} cannot be read as weights: {error or type(error).__name__}") from error
    stored = weights.pop(_OPTIMIZER, None)
    check_model_state(model, weights, "The file")
    if optimizer is not None and stored is not None:
        kind = stored.pop("class")
        if kind != type(optimizer).__qualname__:
            raise ValueError(
                f"The file holds the state of another optimizer; expected one of {type(optimizer).__qualname__}, not "
                f"of {kind}."
            )
        check_optimizer_state(optimizer, stored, "The file")
    model.load_state_dict(weights)
    if optimizer is not None and stored is not None:
        optimizer.load_state_dict(stored)


def _read(file: Path, model: nn.Module, warn: bool) -> dict[str, Any]:
    data = read_bytes(file)
    metadata = header_of(data).get("__metadata__", {})
    # One flipped bit does not make these of the metadata of a sealed file.
    plain = isinstance(metadata, dict) and metadata.get("format") != FORMAT and _SEALED.isdisjoint(metadata)
    if not plain:
        tree: dict[str, Any] = from_bytes(data, FORMAT, VERSION)[0]
        return tree
    weights: dict[str, Any] = load(data)
    own = {name: value.data_ptr() for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    held = {own[name]: value for name, value in weights.items() if name in own}
    for name, address in own.items():  # such a file contains only one of several tied weights
        if address in held:
            weights.setdefault(name, held[address])
    if warn:
        logger.warning(
            "%r is a plain file of safetensors, with no checksum: damage to it would not be seen, and it holds no "
            "state of an optimizer. Save the weights again to have both.",
            str(file),
        )
    return weights


def clone_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, clone: nn.Module) -> torch.optim.Optimizer:
    """A fresh optimizer of the same kind and settings for a copy of a model; learning rates as before scheduling."""
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
