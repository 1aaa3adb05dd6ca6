"""Random generators of the emulated device: those of the CPU, which only tensors of the device take."""

from __future__ import annotations

import weakref
from typing import Any

import torch

from tests.device.backend.memory import NAME, device

_device_generators: set[int] = set()
_HostGenerator = torch.Generator


class DeviceGenerator(_HostGenerator):
    """A generator that only tensors of the device take. The same seed gives the same numbers as on the CPU."""

    device = property(lambda self: device())

    def __init__(self) -> None:
        _device_generators.add(self._cdata)
        weakref.finalize(self, _device_generators.discard, self._cdata)

    def clone_state(self) -> DeviceGenerator:
        made = DeviceGenerator()
        made.set_state(self.get_state())
        return made


class _GeneratorKind(type):
    def __call__(cls, device: Any = "cpu") -> torch.Generator:
        return DeviceGenerator() if torch.device(device).type == NAME else _HostGenerator(device=device)

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, _HostGenerator)


class Generator(metaclass=_GeneratorKind):
    """Stands for `torch.Generator`."""


default_generators = (DeviceGenerator(),)


def is_device_generator(generator: torch.Generator) -> bool:
    return generator._cdata in _device_generators
