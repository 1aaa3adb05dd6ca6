"""Weights from a user's file: safetensors, or what `torch.load(weights_only=True)` reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from art_sensreg.art_bridge.weights import load_weights
from art_sensreg.training.checkpoint.loading import check_model_state
from art_sensreg.utils.files import check_regular
from art_sensreg.utils.text import one_line

# Where training scripts put the weights among other things, and what wrappers put before their names.
_KEYS = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.")


def load_network_weights(file: Path, model: nn.Module) -> None:
    """
    Load weights into a model; nothing in the file is executed.

    :param file: A safetensors file; or any other, with a dict of tensors, or one under `state_dict` or `model`.
    :param model: The model; nothing changes if the weights are not its own.
    :raises ValueError: If there is no such file, it holds more than tensors, or other weights; one line.
    """
    if not file.is_file():
        raise ValueError("there is no such file")
    try:
        check_regular(file, links=True)
        if file.suffix == ".safetensors":
            load_weights(file, model, warn=False)
            return
        state = _state_dict(torch.load(file, map_location="cpu", weights_only=True))
        check_model_state(model, state, "it")
        model.load_state_dict(state)
    except UnpicklingError as error:
        reason = "it is damaged, or holds more than tensors, which could be code: save `model.state_dict()`"
        raise ValueError(reason) from error
    except Exception as error:  # a file may be damaged in any way
        raise ValueError(one_line(error)[:300] or type(error).__name__) from error


def _state_dict(found: Any) -> Any:
    """The weights in what a training script has saved, by the names that they have in the bare model."""
    for key in _KEYS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
            break
    if not isinstance(found, Mapping):
        return found
    weights = dict(found)
    for prefix in _PREFIXES:
        if weights and all(isinstance(name, str) and name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights
