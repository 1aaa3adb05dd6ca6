"""Objects as short texts: the same for equal objects in any process, different for any difference."""

from __future__ import annotations

import functools
import hashlib
import math
import re
import types
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import nn

from art_sensreg.training.checkpoint.bytecode import code_digest, globals_used, is_installed, is_standard, members

Described = Iterator[tuple[str, str]]

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, np.dtype, Enum, np.generic)
# Sources of randomness and the place of computation are no settings, and may differ in a resumed run.
_LEFT_OUT = (torch.Generator, np.random.Generator, np.random.RandomState, torch.device, types.ModuleType)
_OWN_OF_TORCH = frozenset(nn.Module().__dict__)
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_DEEPEST = 8
_LONGEST = 120
_MOST = 1000  # items that are described one by one: a data set may be a list
_CHUNK = 2**26
_LARGE = 2**20


def checksum(values: Any) -> str:
    """
    Checksum of every byte of an array, or of a dense tensor on any device, as eight hexadecimal digits.

    It is read in parts: an array mapped from a file is never in memory as a whole.
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    rows = values.reshape(1) if values.ndim == 0 else values
    count = max(1, _CHUNK // max(1, rows[:1].nbytes))
    total = 0
    for first in range(0, len(rows), count):
        part = np.ascontiguousarray(rows[first : first + count]).reshape(-1)
        total = zlib.crc32(part.view(np.uint8).data, total)
    return f"{total:08x}"


def plain(text: str) -> str:
    """A `repr` without addresses in memory, which differ from process to process."""
    return re.sub(r" at 0x[0-9a-f]+", "", text)


class Describer:
    """
    Describes objects by everything that their behaviour depends on: values, arrays, weights, and the user's own code.

    A function is described by its bytecode, constants, defaults, closure and the global names that it uses, not by its
    name or place: the same function defined again is the same. Code of Python, torch, numpy, ART and other installed
    packages is described by its name. Random generators and devices are left out. What the run itself trains (`own`) is
    named and not looked into: objects may refer to it, and it changes while it trains.
    """

    def __init__(self, own: Iterable[Any] = ()) -> None:
        self._own = {id(thing): thing for thing in own}
        # Large arrays are read once a run: one that is changed in the middle of it is not noticed.
        self._known: dict[int, tuple[Any, str]] = {}
        self._seen: dict[int, tuple[Any, str]] = {}

    def __call__(self, name: str, value: Any) -> Described:
        """Describe an object: pairs of a name (its own, or that of a part of it: `name.part`) and a text."""
        self._seen = {}
        yield from self._describe(name, value, 0)

    def attributes(self, name: str, value: Any, but: Iterable[str] = ()) -> Described:
        """Describe what an object holds (except the attributes `but`) and the code of its class, but not its `repr`."""
        self._seen = {id(value): (value, name)}
        yield from self._parts(name, value, 0, but)

    def _parts(self, name: str, value: Any, depth: int, but: Iterable[str] = ()) -> Described:
        yield from self._members(name, type(value), depth)
        left_out = {*but, *(_OWN_OF_TORCH if isinstance(value, nn.Module) else ())}
        for key, item in sorted(_held(value).items(), key=lambda pair: (str(pair[0])[:1] == "_", str(pair[0]))):
            if key not in left_out:
                yield from self._describe(f"{name}.{key}", item, depth + 1)

    def _describe(self, name: str, value: Any, depth: int) -> Described:
        if isinstance(value, _LEFT_OUT):
            return
        if id(value) in self._own:
            yield name, "the run's own"
        elif isinstance(value, _PLAIN):
            yield name, _shortened(repr(value.item() if isinstance(value, np.generic) else value))
        elif isinstance(value, np.ndarray) and value.dtype.hasobject:
            yield from self._describe(name, value.tolist(), depth + 1)
        elif isinstance(value, (torch.Tensor, np.ndarray)):
            yield name, self._array(value)
        elif id(value) in self._seen:
            yield name, f"the same as {self._seen[id(value)][1]}"
        elif depth > _DEEPEST:
            yield name, type(value).__name__
        else:
            self._seen[id(value)] = value, name
            yield from self._composed(name, value, depth)

    def _composed(self, name: str, value: Any, depth: int) -> Described:
        if isinstance(value, (list, tuple, set, frozenset, deque, dict)):
            yield from self._container(name, value, depth)
        elif isinstance(value, nn.Module):
            yield from self._module(name, value, depth)
        elif isinstance(value, torch.optim.Optimizer):
            groups = [{key: item for key, item in group.items() if key != "params"} for group in value.param_groups]
            yield name, type(value).__name__
            yield from self._describe(f"{name}.param_groups", groups, depth + 1)
        elif isinstance(value, functools.partial):
            yield from self._describe(name, value.func, depth + 1)
            yield from self._describe(f"{name}.arguments", [*value.args, value.keywords], depth + 1)
        elif isinstance(value, types.FunctionType):
            yield from self._function(name, value, depth)
        elif isinstance(value, types.MethodType):
            yield from self._describe(name, value.__func__, depth + 1)
            yield from self._describe(f"{name}.self", value.__self__, depth + 1)
        elif isinstance(value, type):
            yield name, value.__name__
            yield from self._members(name, value, depth)
        else:
            own_text = getattr(type(value), "__repr__", None) is not object.__repr__
            yield name, _shortened(plain(repr(value)) if own_text else type(value).__name__)
            if not is_standard(type(value).__module__):
                yield from self._parts(name, value, depth)

    def modules(self, named: Iterable[tuple[str, nn.Module]]) -> Described:
        """Describe modules by name, without their weights."""
        self._seen = {}
        yield from self._modules(named, 0)

    def _modules(self, named: Iterable[tuple[str, nn.Module]], depth: int) -> Described:
        for name, module in named:
            self._seen.setdefault(id(module), (module, name))
            yield name, plain(f"{type(module).__name__}({module.extra_repr()})")
            if type(module).__module__.startswith("torch._dynamo"):
                continue  # what `torch.compile` made of the module inside it
            yield from self._parts(name, module, depth)
            for kind in _HOOKS:
                for number, hook in enumerate(getattr(module, kind).values()):
                    yield from self._describe(f"{name}.{kind[1:]} {number}", hook, depth + 1)
            for key in sorted(module._non_persistent_buffers_set):
                if (buffer := module._buffers.get(key)) is not None:
                    yield f"{name}.{key}", self._array(buffer)

    def _module(self, name: str, value: nn.Module, depth: int) -> Described:
        parts = ((f"{name}.{part}" if part else name, module) for part, module in value.named_modules())
        yield from self._modules(parts, depth)
        for key, tensor in [*value.named_parameters(), *value.named_buffers()]:
            yield f"{name}.{key}", "the run's own" if id(tensor) in self._own else self._array(tensor)

    def _array(self, value: np.ndarray | torch.Tensor) -> str:
        if id(value) in self._known:
            return self._known[id(value)][1]
        if isinstance(value, np.ndarray):
            content = checksum(value)
        else:
            content = "unknown" if value.is_meta else checksum(value.to_dense())
        text = f"array of shape {tuple(value.shape)}, {str(value.dtype).removeprefix('torch.')}, checksum {content}"
        if math.prod(value.shape) >= _LARGE:
            self._known[id(value)] = value, text
        return text

    def _container(self, name: str, value: Any, depth: int) -> Described:
        pairs = isinstance(value, dict)
        items = [*value.keys(), *value.values()] if pairs else list(value)
        if all(isinstance(item, _PLAIN) or _plain_row(item) for item in items):
            if pairs:
                text = repr(dict(sorted(value.items(), key=lambda pair: repr(pair[0]))))
            else:
                text = repr(sorted(value, key=repr) if isinstance(value, (set, frozenset)) else list(value))
            yield name, _shortened(text)
        elif isinstance(value, (set, frozenset)):
            texts = sorted(repr(list(self._describe("", item, depth + 1))) for item in value)
            yield name, _shortened(repr(texts))
        elif len(value) > _MOST:
            digest = hashlib.blake2b(digest_size=8)
            for key, item in value.items() if pairs else enumerate(value):
                digest.update(repr(list(self._describe(plain(str(key)), item, depth + 1))).encode())
            yield name, f"{type(value).__name__} of {len(value)}, checksum {digest.hexdigest()}"
        else:
            yield name, f"{type(value).__name__} of {len(value)}"
            for key, item in value.items() if pairs else enumerate(value):
                yield from self._describe(f"{name}.{_shortened(plain(str(key)))}", item, depth + 1)

    def _function(self, name: str, value: types.FunctionType, depth: int) -> Described:
        """A function, with what it sees beside its arguments."""
        if is_installed(value.__module__):
            yield name, f"{value.__module__}.{value.__qualname__}"
        else:
            yield name, f"{value.__name__}, {code_digest(value)}"
        seen: dict[str, Any] = {f"default {n}": item for n, item in enumerate(value.__defaults__ or ())}
        seen.update(value.__kwdefaults__ or {})
        for key, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            if key != "__class__" and cell != types.CellType():  # not assigned yet
                seen[key] = cell.cell_contents
        if not is_installed(value.__module__):
            names = globals_used(value.__code__)
            seen.update({key: value.__globals__[key] for key in names if key in value.__globals__})
        for key, item in seen.items():
            yield from self._describe(f"{name}.{key}", item, depth + 1)

    def _members(self, name: str, kind: type, depth: int) -> Described:
        """The code of a class, once."""
        if id(kind) in self._seen and self._seen[id(kind)][1] != name:
            return
        self._seen[id(kind)] = kind, name
        for key, item in members(kind).items():
            yield from self._describe(f"{name}.{key}", item, depth + 1)


def _held(value: Any) -> dict[str, Any]:
    """The attributes of an object, those in slots among them."""
    names: list[str] = []
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        names += [slots] if isinstance(slots, str) else slots
    held = {n: getattr(value, n) for n in names if n not in ("__dict__", "__weakref__") and hasattr(value, n)}
    return {**held, **getattr(value, "__dict__", {})}


def _plain_row(item: Any) -> bool:
    return isinstance(item, (tuple, list)) and all(isinstance(part, _PLAIN) for part in item)


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:40]}..., checksum {zlib.crc32(text.encode()):08x}"
