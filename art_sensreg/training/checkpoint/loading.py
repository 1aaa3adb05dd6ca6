"""
States of models and optimizers, checked before they are used.

torch compares the shapes of a model's weights, but nothing of an optimizer's state: a fused kernel reads an average of
another shape as if it were the weight's, and past its end.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from art_sensreg.training.optimizers import inner_optimizers

_KERNELS = ("fused", "foreach", "capturable", "differentiable")


def check_model_state(model: nn.Module, stored: Any, where: str) -> None:
    """
    Check that weights belong to this architecture (names, shapes, types) and are finite. `where` they come from is for
    the message.
    """
    if not isinstance(stored, dict):
        raise ValueError(f"{where} holds {type(stored).__name__} for the weights; expected a dict of tensors.")
    own, parameters = model.state_dict(), dict(model.named_parameters(remove_duplicate=False))
    for name, value in stored.items():
        if name not in own:
            raise ValueError(
                f"{where} holds {name!r}; expected weights of this architecture, which has none of that name."
            )
        if isinstance(own[name], torch.Tensor):
            if is_lazy(own[name]):
                raise ValueError(f"`model` has the uninitialised weight {name!r}; expected a model that has run once.")
            _check_tensor(value, own[name], f"{where} holds {name!r}", "in this architecture")
            _check_finite(value, None if name in parameters else own[name], f"{where} holds {name!r}")
    missing = [name for name in own if name not in stored]
    if missing:
        raise ValueError(f"{where} has no {missing[0]!r}; expected it in this architecture.")


def check_optimizer_state(optimizer: torch.optim.Optimizer, stored: Any, where: str) -> None:
    """
    Check that a state belongs to an optimizer: its parameter groups, and every tensor for every parameter. `where` it
    comes from is for the message.
    """
    other = f"{where} holds the state of another optimizer; expected one of {type(optimizer).__qualname__}"
    if not isinstance(stored, dict) or not {"state", "param_groups"} <= set(stored):
        raise ValueError(f"{other}.")
    own_groups, groups, states = optimizer.state_dict()["param_groups"], stored["param_groups"], stored["state"]
    if not isinstance(groups, list) or len(groups) != len(own_groups) or not isinstance(states, dict):
        raise ValueError(f"{other} with {len(own_groups)} groups of parameters.")
    for number, (own, group) in enumerate(zip(own_groups, groups, strict=True)):
        if not isinstance(group, dict) or group.get("params") != own["params"]:
            raise ValueError(f"{other}: group {number} of its parameters is another.")
        lacking = set(own) - set(group) - {"initial_lr"}
        if lacking:
            raise ValueError(f"{other}: its group {number} has no {min(lacking)!r}.")
        for name, value in group.items():
            _check_setting(value, own.get(name, value), f"{where} holds {name!r} of group {number} of the optimizer")
    held = _parameters(optimizer, groups)
    for index, state in states.items():
        if index not in held:
            raise ValueError(f"{other}: it has a state of parameter {index!r} of {len(held)}.")
        _check_state(optimizer, index, *held[index], state, where)


def check_live_state(optimizer: torch.optim.Optimizer) -> None:
    """Check the present state of an optimizer, tensor by tensor: a weight may have been replaced since it was made."""
    for each in (optimizer, *inner_optimizers(optimizer).values()):
        for index, (parameter, group) in _parameters(each, each.param_groups).items():
            if each.state.get(parameter):
                _check_state(each, index, parameter, group, each.state[parameter], "`optimizer`")


def _parameters(optimizer: torch.optim.Optimizer, settings: list[Any]) -> dict[Any, tuple[torch.Tensor, Any]]:
    """The parameters by their numbers in a state, each with the settings that its group has, or will have."""
    pairs = zip(optimizer.param_groups, settings, strict=True)
    return dict(enumerate((parameter, group) for own, group in pairs for parameter in own["params"]))


def _check_state(
    optimizer: torch.optim.Optimizer, index: Any, parameter: torch.Tensor, group: Any, state: Any, where: str
) -> None:
    what = f"{where} holds {{!r}} of parameter {index} of the optimizer"
    if not isinstance(state, Mapping):
        raise ValueError(f"{what.format('state')} as {type(state).__name__}; expected a dict.")
    expected = _state_after_a_step(optimizer, parameter, group) if state else {}
    missing = [name for name, value in expected.items() if value is not None and name not in state]
    if missing:
        raise ValueError(f"{where} has no {missing[0]!r} of parameter {index} of the optimizer; expected it.")
    leaves = dict(_leaves(expected))
    for path, value in _leaves(state):
        name = "/".join(map(str, path))
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{what.format(name)} of {value}; expected a finite number.")
        if isinstance(expected.get(path[0]), torch.Tensor) or isinstance(value, torch.Tensor):
            like = leaves.get(path)
            if not isinstance(like, torch.Tensor):  # in a list of an optimizer of the user's own may be anything
                like = parameter if len(path) == 1 or isinstance(expected.get(path[0]), torch.Tensor) else value
            _check_entry(value, like, what.format(name), name)


def _check_entry(value: Any, like: torch.Tensor, what: str, name: str) -> None:
    one = isinstance(value, (int, float)) or (isinstance(value, torch.Tensor) and value.numel() == 1)
    if name == "step" and one and math.isfinite(value):
        return  # a counter: its type, and even its class, differ from kernel to kernel
    _check_tensor(value, like, what, "for its weight")
    if value.is_floating_point() and value.isnan().any():
        raise ValueError(f"{what} with NaN values; expected numbers.")


def _state_after_a_step(optimizer: torch.optim.Optimizer, parameter: torch.Tensor, group: Any) -> dict[Any, Any]:
    """What the optimizer keeps for a parameter: asked of a copy of it, on zeros, without memory where that will do."""
    for device in ("meta", "cpu"):
        copy = object.__new__(type(optimizer))
        try:
            stand_in = torch.zeros(parameter.shape, dtype=parameter.dtype, device=device, requires_grad=True)
            stand_in.grad = torch.zeros_like(stand_in)
            # Copies, as a step may move them: a counter, say.
            settings = {name: deepcopy(value) for name, value in group.items() if name != "params"}
            settings.update({name: False for name in _KERNELS if name in group}, params=[stand_in])
            copy.__setstate__({"defaults": optimizer.defaults, "state": defaultdict(dict), "param_groups": [settings]})
            copy._warned_capturable_if_run_uncaptured = True  # as its constructor has it, for machines with a GPU
            copy.step()
        except Exception:  # noqa: BLE001 - an optimizer of the user's own may need anything
            continue
        return dict(copy.state[stand_in])
    return {}


def _leaves(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(tree, Mapping):
        items = list(tree.items())
    elif isinstance(tree, (list, tuple)):
        items = list(enumerate(tree))
    else:
        yield path, tree
        return
    for key, value in items:
        yield from _leaves(value, (*path, key))


def _check_tensor(value: Any, like: torch.Tensor, what: str, place: str) -> None:
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"{what} as {type(value).__name__}; expected a tensor.")
    if value.shape != like.shape:
        raise ValueError(f"{what} of shape {tuple(value.shape)}; expected {tuple(like.shape)} {place}.")
    if value.dtype != like.dtype:
        raise ValueError(f"{what} of {value.dtype}; expected {like.dtype} {place}.")
    if value.layout != like.layout:
        raise ValueError(f"{what} of {value.layout}; expected {like.layout} {place}.")


def _check_finite(value: torch.Tensor, own: torch.Tensor | None, what: str) -> None:
    """All must be finite; in a buffer (a mask, say) but for what the model's own has at that place."""
    bad = ~torch.isfinite(value)
    if own is not None and bad.any():
        same = (value == own.to(value.device)) | (value.isnan() & own.to(value.device).isnan())
        bad &= ~same
    if bad.any():
        raise ValueError(f"{what} with {int(bad.sum())} NaN or infinite values; expected finite ones.")


def _check_setting(value: Any, own: Any, what: str) -> None:
    """A setting may have another value than the present one, not another kind of value."""
    numbers = (int, float)
    if isinstance(own, bool) or own is None or isinstance(value, bool) or value is None:
        fits = isinstance(value, bool) or value is None or own is None
    elif isinstance(own, torch.Tensor) or isinstance(value, torch.Tensor):
        fits = torch.as_tensor(value).numel() == 1 and bool(torch.isfinite(torch.as_tensor(value)).all())
    elif isinstance(own, numbers):
        fits = isinstance(value, numbers) and math.isfinite(value)
    elif isinstance(own, (list, tuple)):
        fits = isinstance(value, (list, tuple)) and len(value) == len(own)
        if fits:
            for each, mine in zip(value, own, strict=True):
                _check_setting(each, mine, what)
    else:
        fits = type(value) is type(own)
    if not fits:
        raise ValueError(f"{what} as {value!r}; expected a value like {own!r}.")
