"""The code of the user's functions and classes, compared by bytecode, so that changes are detected."""

from __future__ import annotations

import dis
import functools
import hashlib
import sys
import types
from pathlib import Path
from typing import Any

_NO_BEHAVIOUR = {"__doc__", "__module__", "__qualname__", "__annotations__", "__annotate__", "__firstlineno__"}
_NO_BEHAVIOUR |= {"__static_attributes__", "__dict__", "__weakref__", "__repr__", "__match_args__", "__orig_bases__"}


def code_digest(function: types.FunctionType) -> str:
    """
    A checksum of a function's bytecode and constants, with the version of Python, which has a bytecode of its own.
    Docstring, place and names of variables do not count.
    """
    content = hashlib.blake2b(digest_size=8)
    _add_code(function.__code__, function.__doc__, content)
    return f"code {sys.version_info[0]}.{sys.version_info[1]}:{content.hexdigest()}"


def _add_code(code: types.CodeType, doc: str | None, content: Any) -> None:
    content.update(code.co_code)
    content.update(repr((code.co_argcount, code.co_kwonlyargcount, code.co_names)).encode())
    for number, constant in enumerate(code.co_consts):
        if isinstance(constant, types.CodeType):
            inner = constant.co_consts[:1]
            _add_code(constant, inner[0] if inner and isinstance(inner[0], str) else None, content)
        elif isinstance(constant, frozenset):  # its order differs from process to process
            content.update(repr(sorted(map(repr, constant))).encode())
        elif number or constant is not doc:
            content.update(repr(constant).encode())


def globals_used(code: types.CodeType) -> list[str]:
    """The global names that a function, and functions within it, read: sorted."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names.update(globals_used(constant))
    return sorted(names)


def members(kind: type) -> dict[str, Any]:
    """
    Functions and other attributes of a class and its bases by name; of a property its functions. Nothing of installed
    packages is among them.
    """
    found: dict[str, Any] = {}
    hidden = set(_NO_BEHAVIOUR)
    for base in kind.__mro__:
        if is_installed(base.__module__):
            continue
        for key, item in sorted(vars(base).items()):
            if key in hidden:
                continue
            hidden.add(key)
            if isinstance(item, (staticmethod, classmethod)):
                found[key] = item.__func__
            elif isinstance(item, property):
                found.update({f"{key}.{n}": part for n in ("fget", "fset") if (part := getattr(item, n)) is not None})
            elif isinstance(item, functools.cached_property):
                found[key] = item.func
            elif isinstance(item, types.FunctionType) or not key.startswith("_"):
                found[key] = item
    return found


def is_standard(module: str | None) -> bool:
    """Whether the module of that name belongs to Python's own library."""
    root = (module or "builtins").partition(".")[0]
    return root != "__main__" and root in sys.stdlib_module_names


@functools.cache
def is_installed(module: str | None) -> bool:
    """Whether the module of that name is Python's, this package's or an installed one, and so not the user's code."""
    root = (module or "builtins").partition(".")[0]
    if root == "__main__":
        return False
    if is_standard(module) or root in ("torch", "numpy", "art", "art_sensreg"):
        return True
    parts = Path(getattr(sys.modules.get(root), "__file__", None) or "").parts
    return "site-packages" in parts or "dist-packages" in parts
