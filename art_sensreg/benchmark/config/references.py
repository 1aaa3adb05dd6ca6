"""Objects of a user's own code, named as `FILE.py:NAME` or `MODULE:NAME` on a command line."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from art_sensreg.utils.checks import did_you_mean
from art_sensreg.utils.text import error_text


def load_object(argument: str, reference: str) -> Any:
    """
    What a reference names: a function or class of a Python file, or of a module that can be imported from here.

    :param argument: The argument that it was given for.
    :param reference: `FILE.py:NAME` or `MODULE:NAME`.
    :return: The object.
    :raises ValueError: If there is no such file, module or name, or the code fails when it is imported; one line.
    """
    place, _, name = reference.rpartition(":")
    module = _run_file(argument, Path(place)) if place.endswith(".py") else _import(argument, place)
    if not name or not hasattr(module, name):
        public = [known for known in vars(module) if not known.startswith("_")]
        raise ValueError(f"`{argument}`: {place} has no {name!r}{did_you_mean(name, public)}")
    return getattr(module, name)


def source_of(reference: str) -> Path | None:
    """The Python file that a reference names, if it names one."""
    place = reference.rpartition(":")[0]
    return Path(place) if place.endswith(".py") else None


def _run_file(argument: str, file: Path) -> ModuleType:
    """A file as a module, run once for each content: it may be edited between two runs of the same process."""
    if not file.is_file():
        raise ValueError(f"`{argument}`: there is no file {file}; expected FILE.py:NAME")
    name = f"_file_{zlib.crc32(str(file.resolve()).encode() + file.read_bytes()):08x}_{file.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look there
    try:
        with _one_line(argument, str(file)), _importing_from(file.resolve().parent):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import(argument: str, name: str) -> ModuleType:
    with _one_line(argument, name), _importing_from(Path.cwd()):
        return importlib.import_module(name)


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """As for a script, modules beside the file can be imported."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with suppress(ValueError):  # the user's code may have removed it
            sys.path.remove(str(folder))


@contextmanager
def _one_line(argument: str, place: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ValueError(f"`{argument}`: {place} cannot be imported: {error_text(error)}") from error
