"""Packages that mean the emulated device where their source says `cuda`, so that their branches for CUDA run."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import re
import sys
from collections.abc import Sequence
from typing import Any

from tests.device.backend.memory import NAME


def emulate_cuda() -> None:
    """Install the emulated device and let the package mean it where it says `cuda`; before the package is imported."""
    from tests.device.emulated import install

    install()
    as_cuda("art_sensreg", "art", "pyautoattack")


def as_cuda(*packages: str) -> None:
    """Read `cuda` as the emulated device in the source of packages that are imported from now on."""
    sys.meta_path.insert(0, _Finder(packages))


class _Translated(importlib.machinery.SourceFileLoader):
    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> Any:
        text = bytes(data).decode().replace(".is_cuda", f".is_{NAME}")
        return super().source_to_code(re.sub(r"\bcuda\b", NAME, text).encode(), path)

    def get_code(self, fullname: str) -> Any:  # never from compiled files, nor into them
        return self.source_to_code(self.get_data(self.path), self.path)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, packages: Sequence[str]) -> None:
        self.packages = packages

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.split(".")[0] not in self.packages:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and type(spec.loader) is importlib.machinery.SourceFileLoader:
            spec.loader = _Translated(spec.loader.name, spec.loader.path)
        return spec
