"""What a model carries from one forward pass to the next: weights, buffers and plain attributes of its modules."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

# Attributes of every module; its mode does not count as state.
_INTERNAL = frozenset(vars(nn.Module()))
_CONTAINERS = (list, dict, set, deque)
_SWITCHES = frozenset({type(None), bool, int, float})

Composition = frozenset[tuple[int, str]]


class Snapshot:
    """
    The state of a model, to be restored after a trial.

    In the meantime weights and buffers lie in other memory: what a graph holds of them is never written to. `weights`
    tells whether parameters, which some models change in a forward pass, and the content of lists count too.
    """

    def __init__(self, model: nn.Module, weights: bool = True) -> None:
        self._weights = weights
        self._modules = list(model.modules())
        self._entries = [_entries(module) for module in self._modules]
        self._copies = [{name: _copy(value) for name, value in held.items()} for held in self._entries]
        tensors = [*model.buffers(), *(model.parameters() if weights else ())]
        with torch.inference_mode(False):
            self._tensors = [(tensor, tensor.data) for tensor in tensors if not is_lazy(tensor)]
        self.renew()

    def renew(self) -> None:
        """Let weights and buffers be copies of those of the snapshot."""
        with torch.inference_mode(False):
            for tensor, data in self._tensors:
                tensor.data = data.clone()

    def changed(self) -> list[tuple[nn.Module, str]]:
        """Buffers and attributes whose values are not those of the snapshot, and that were there already."""
        found = []
        for module, copies in zip(self._modules, self._copies, strict=True):
            now = _entries(module)
            found += [(module, name) for name in copies if name in now and not _equal(now[name], copies[name])]
        return found

    def values(self, current: bool = False) -> Iterator[tuple[tuple[int, str], Any]]:
        """The values of the snapshot, or copies of the present ones, by number of the module and name."""
        for number, (module, copies) in enumerate(zip(self._modules, self._copies, strict=True)):
            for name, value in _entries(module).items() if current else copies.items():
                yield (number, name), _copy(value) if current else value

    def restore(self) -> None:
        """Restore everything; attributes that have come into being go."""
        for module, held, copies in zip(self._modules, self._entries, self._copies, strict=True):
            for name in _entries(module).keys() - held.keys():
                delattr(module, name)
            for name, value in held.items():
                if getattr(module, name, None) is not value:
                    setattr(module, name, value)
                own = name in module._parameters or name in module._buffers
                if not own and (self._weights or type(value) not in _CONTAINERS):
                    _refill(value, copies[name])
        with torch.inference_mode(False):
            for tensor, data in self._tensors:
                tensor.data = data


class MovedState:
    """The buffers and attributes, by module and name, that a forward pass of a model changes, beside BatchNorm's."""

    def __init__(self, entries: list[tuple[nn.Module, str]]) -> None:
        self.entries = entries

    def __bool__(self) -> bool:
        return bool(self.entries)

    def values(self) -> list[Any]:
        """Copies of the present values."""
        return [_copy(getattr(module, name)) for module, name in self.entries]

    def restore(self, values: list[Any]) -> None:
        """Go back to former values, from :meth:`values`."""
        for (module, name), value in zip(self.entries, values, strict=True):
            now = getattr(module, name)
            if _same_kind(now, value):
                _refill(now, value)
            else:
                setattr(module, name, value)

    @contextmanager
    def preserved(self) -> Iterator[None]:
        """Afterwards tensors are what they were; numbers go on counting passes."""
        tensors = [(m, name) for m, name in self.entries if isinstance(getattr(m, name, None), torch.Tensor)]
        if not tensors:
            yield
            return
        with MovedState(tensors).replayed(keep=False):
            yield

    @contextmanager
    def replayed(self, keep: bool = True) -> Iterator[Callable[[], None]]:
        """
        Yield a function that goes back to the present state; at the end it is that at the function's first call.

        The passes work on copies: what a graph holds of one pass is not overwritten by the next. Without `keep` the
        state does not move at all.
        """
        start = [getattr(module, name) for module, name in self.entries]
        after: list[list[Any]] = []

        def again() -> None:
            after.append([getattr(module, name) for module, name in self.entries])
            self._set([_copy(value) for value in start])

        self._set([_copy(value) for value in start])
        try:
            yield again
        finally:
            self._set(start)
            if keep and after:
                self.restore(after[0])

    def _set(self, values: list[Any]) -> None:
        for (module, name), value in zip(self.entries, values, strict=True):
            setattr(module, name, value)


def composition(model: nn.Module) -> Composition:
    """Modules of a model, and what of them is switched off: probabilities of 0, layers in evaluation mode."""
    found: set[tuple[int, str]] = set()
    for module in model.modules():
        number = id(module)
        found.add((number, type(module).__name__))
        for name, value in vars(module).items():
            if type(value) in _SWITCHES and not value:
                found.add((number, name))
    return frozenset(found)


def moved_alike(start: Any, alone: Any, stacked: Any, rounding: float) -> bool:
    """
    Whether a buffer or attribute has moved alike in two passes, up to the share `rounding` of its way.

    Records of a pass, which are as large as its batch, count as alike.
    """
    if isinstance(alone, torch.Tensor) and isinstance(stacked, torch.Tensor):
        if alone.shape != stacked.shape or alone.requires_grad:
            return True
        if not alone.is_floating_point() or not isinstance(start, torch.Tensor) or start.shape != alone.shape:
            return bool(torch.equal(alone, stacked))
        size = (alone - start).abs().nan_to_num(posinf=0.0).max() if alone.numel() else 0.0  # ranges begin infinite
        return not bool(((alone - stacked).abs() > rounding * size + 1e-5 * alone.abs()).any())
    if isinstance(alone, float) and isinstance(stacked, float):
        return abs(alone - stacked) <= rounding * abs(alone - (start if isinstance(start, float) else 0.0)) + 1e-9
    return True


def _entries(module: nn.Module) -> dict[str, Any]:
    """Buffers, parameters and attributes of one module, by name."""
    named: dict[str, Any] = {}
    if not isinstance(module, torch.jit.ScriptModule):
        named = {name: value for name, value in vars(module).items() if name not in _INTERNAL}
        named.update({name: value for name, value in module._parameters.items() if value is not None})
    named.update({name: value for name, value in module.named_buffers(recurse=False) if not is_lazy(value)})
    return named


def _copy(value: Any) -> Any:
    if isinstance(value, nn.Parameter):
        return value
    if isinstance(value, torch.Tensor):
        return value if value.requires_grad else value.detach().clone()
    return copy.copy(value) if type(value) in _CONTAINERS else value


def _refill(value: Any, former: Any) -> None:
    """Give a container its former content; tensors that are attributes too."""
    if type(value) is list:
        value[:] = former
    elif isinstance(value, (deque, set, MutableMapping)) and type(value) in _CONTAINERS:
        value.clear()
        value.extend(former) if isinstance(value, deque) else value.update(former)
    elif isinstance(value, torch.Tensor) and not value.requires_grad and not _equal(value, former):
        with torch.no_grad():
            value.copy_(former)


def _same_kind(before: Any, after: Any) -> bool:
    both = isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor)
    return both and before.shape == after.shape and before.dtype == after.dtype and not after.requires_grad


def _equal(now: Any, before: Any) -> bool:
    if isinstance(now, torch.Tensor) and isinstance(before, torch.Tensor):
        return now is before or (now.shape == before.shape and torch.equal(now, before))
    if isinstance(now, (bool, int, float, str)):
        return type(now) is type(before) and (now == before or now != now)
    return True  # lists and the like are usually records of passes
