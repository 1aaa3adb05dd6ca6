"""The random states that a model draws from: found, preserved and replayed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import nn

from art_sensreg.utils.model_state import Snapshot

_LIBRARIES = ("torch", "numpy", "random", "torchvision")
_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


def torch_generator(device: torch.device) -> torch.Generator:
    """Torch's global generator of a device."""
    if device.type != "cuda":
        return torch.default_generator
    return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]


def random_sources(module: nn.Module | None, device: torch.device) -> list[Any]:
    """
    The generators that a model may draw from.

    These are the global ones of torch (for the CPU and the device), numpy and Python, and those that its modules keep
    as attributes or name in their code.
    """
    found: list[Any] = [torch.default_generator, np.random, random]
    if device.type == "cuda":
        found.append(torch_generator(device))
    kept = [value for part in ([] if module is None else module.modules()) for value in _held(part)]
    own = {id(value): value for value in kept if isinstance(value, _GENERATORS)}
    found += [value for value in own.values() if not isinstance(value, random.SystemRandom) and value not in found]
    return found


def _held(part: nn.Module) -> Iterator[Any]:
    """What a module can draw from: attributes, what is in them, and what its functions name."""
    for value in vars(part).values():
        yield value
        if type(value) in (list, tuple):
            yield from value
        elif type(value) is dict:
            yield from value.values()
    hooks = [*part._forward_hooks.values(), *part._forward_pre_hooks.values()]
    own = [kind for kind in type(part).__mro__ if kind.__module__.partition(".")[0] not in _LIBRARIES]
    methods = [value for kind in own for value in vars(kind).values()]
    seen: set[int] = set()
    for function in [*vars(part).values(), *hooks, *methods]:
        yield from _named(function, seen)


def _named(function: Any, seen: set[int]) -> Iterator[Any]:
    """Global variables and those of enclosing functions that a function names, and those of functions that it names."""
    function = getattr(function, "__func__", function)
    known = not isinstance(function, FunctionType) or function.__module__.partition(".")[0] in _LIBRARIES
    if known or id(function) in seen:
        return
    seen.add(id(function))
    values = [function.__globals__.get(name) for name in function.__code__.co_names]
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # not assigned yet
            values.append(cell.cell_contents)
    for value in values:
        yield value
        yield from _named(value, seen)


class Replay:
    """Context manager inside which the random states are those of its making; outside they go on as if unused."""

    def __init__(self, sources: Sequence[Any]) -> None:
        self._sources = sources
        self._inside = _states(sources)
        self._outside: list[Any] = []

    def __enter__(self) -> None:
        self._outside = _states(self._sources)
        _put(self._sources, self._inside)

    def __exit__(self, *exc: Any) -> None:
        _put(self._sources, self._outside)


def same_states(replay: Replay) -> bool:
    """Whether nothing was drawn since a :class:`Replay` was made."""
    return all(map(_same, replay._inside, _states(replay._sources)))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return bool(torch.equal(one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, tuple) and len(one) == len(other) < 10:  # Python's own is long, and made of numbers only
        return all(map(_same, one, other))
    return bool(np.array_equal(one, other)) if isinstance(one, np.ndarray) else bool(one == other)


@contextmanager
def rewindable_rng_state(sources: Sequence[Any]) -> Iterator[Callable[[], None]]:
    """Yield a function that goes back to the present random states; at the end they are those at its first call."""
    start, after = _states(sources), []

    def rewind() -> None:
        after.append(_states(sources))
        _put(sources, start)

    yield rewind
    if after:
        _put(sources, after[0])


@contextmanager
def preserve_rng_state(
    device: torch.device | None = None, seed: int | None = None, module: nn.Module | None = None
) -> Iterator[None]:
    """
    Afterwards the random states are what they were: torch's, numpy's (ART's preprocessors draw from it) and Python's.

    Those of a GPU and of a model's own generators count too if they are given; with a `seed` all begin with it.
    """
    sources = random_sources(module, device or torch.device("cpu"))
    with Replay(sources) if seed is None else seeded(sources, seed):
        yield


@contextmanager
def seeded(sources: Sequence[Any], seed: int) -> Iterator[None]:
    """Inside, generators begin with a seed; outside they go on as if unused."""
    with Replay(sources):
        seed_sources(sources, seed)
        yield


def seed_sources(sources: Sequence[Any], seed: int) -> None:
    """Seed generators, as :func:`random_sources` lists them."""
    for number, source in enumerate(sources):
        # Equal seeds would give generators of the same kind the same numbers.
        _seed(source, seed + max(0, number - 2))


@contextmanager
def preserve_model(module: nn.Module, device: torch.device, seed: int, weights: bool = False) -> Iterator[None]:
    """
    Inside, a model may run without a trace in random states, which are seeded, running statistics or other state.

    Its mode is the caller's choice. With `weights`, parameters and lists that a pass changes are restored too.
    """
    snapshot = Snapshot(module, weights)
    try:
        with preserve_rng_state(device, seed, module):
            yield
    finally:
        snapshot.restore()


def _states(sources: Sequence[Any]) -> list[Any]:
    return [_state(source) for source in sources]


def _put(sources: Sequence[Any], states: list[Any]) -> None:
    for source, state in zip(sources, states, strict=True):
        _restore(source, state)


def _state(source: Any) -> Any:
    if isinstance(source, torch.Generator):
        return source.get_state()
    if isinstance(source, np.random.Generator):
        return source.bit_generator.state
    return source.getstate() if hasattr(source, "getstate") else source.get_state()


def _restore(source: Any, state: Any) -> None:
    if isinstance(source, np.random.Generator):
        source.bit_generator.state = state
    elif hasattr(source, "setstate"):
        source.setstate(state)
    else:
        source.set_state(state)


def _seed(source: Any, seed: int) -> None:
    if isinstance(source, torch.Generator):
        source.manual_seed(seed)
    elif isinstance(source, np.random.Generator):
        source.bit_generator.state = type(source.bit_generator)(seed).state
    else:
        source.seed(seed % 2**32)
