"""Packages that only their users need."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def optional_module(name: str) -> ModuleType:
    """Import a module; if its package is missing, an ImportError says how to install it."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0] if error.name is None else error.name.partition(".")[0]
        raise ImportError(f"The package {package} is missing: pip install {package}") from error
