"""Declaring the entries of a JSON file, validating them when they are read, and turning them into dataclasses."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar

# Function of what stands in the file and of where it stands; returns the value, or raises Unfit.
Read = Callable[[Any, str], Any]
R = TypeVar("R", bound="Record")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+_-]{0,99}")


class Unfit(ValueError):
    """A value that cannot stand where it does: the message says where, and what was expected."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """
    An object of a JSON file. Its fields are declared by :func:`required` and :func:`optional`; `more` keeps the entries
    that this version does not know.
    """

    more: Mapping[str, Any] = field(default_factory=dict, repr=False)


def required(read: Read, default: Any = MISSING) -> Any:
    """An entry that is always in the file; the default serves those who make the record."""
    return field(default=default, metadata={"read": read, "required": True})


def optional(read: Read, default: Any = None) -> Any:
    """An entry that may be missing from the file; what is None is left out of it."""
    return field(default=default, metadata={"read": read, "required": False})


def record(kind: type[R]) -> Callable[[Any, str], R]:
    """Read an object of the file as a record."""

    def read(value: Any, place: str) -> R:
        table = _object(value, place)
        entries = {entry.name: entry.metadata for entry in fields(kind) if "read" in entry.metadata}
        found = {}
        for name, metadata in entries.items():
            if name in table:
                found[name] = metadata["read"](table[name], f"{place}.{name}" if place else name)
            elif metadata["required"]:
                raise Unfit(f"{place or 'it'} has no `{name}`")
        return kind(**found, more={name: entry for name, entry in table.items() if name not in entries})

    return read


def checked(expected: str, test: Callable[[Any], bool]) -> Read:
    """Read a value as it is, if it passes a test."""

    def read(value: Any, place: str) -> Any:
        if not test(value):
            text = repr(value)
            raise Unfit(f"{place} is {text if len(text) < 60 else text[:60] + '...'}; expected {expected}")
        return value

    return read


def one_of(*names: str) -> Read:
    """Read one of several words."""
    return checked(f"one of {', '.join(names)}", lambda value: isinstance(value, str) and value in names)


def or_none(read: Read) -> Read:
    """Read a value that may be null."""
    return lambda value, place: None if value is None else read(value, place)


def list_of(read: Read, least: int = 0) -> Read:
    """Read a list as a tuple."""

    def read_list(value: Any, place: str) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) < least:
            raise Unfit(f"{place} is {type(value).__name__}; expected a list{' with entries' if least else ''}")
        return tuple(read(entry, f"{place}[{number}]") for number, entry in enumerate(value))

    return read_list


def table_of(key: Read, read: Read) -> Read:
    """Read an object whose names are not known beforehand."""
    return lambda value, place: {
        key(name, f"a name in {place}"): read(entry, f"{place}.{name}") for name, entry in _object(value, place).items()
    }


def _object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Unfit(f"{place or 'it'} is {type(value).__name__}; expected an object")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _option(value: Any, place: str) -> Any:
    return (list_of(_option) if isinstance(value, list) else PLAIN)(value, place)


TEXT = checked("text", lambda value: isinstance(value, str))
NUMBER = checked("a finite number", _is_number)
POSITIVE = checked("a finite number above 0", lambda value: _is_number(value) and value > 0)
SECONDS = checked("seconds", lambda value: _is_number(value) and value >= 0)
SHARE = checked("a share from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1)
WHOLE = checked("a whole number", _is_whole)
COUNT = checked("a whole number above 0", lambda value: _is_whole(value) and value > 0)
FLAG = checked("true or false", lambda value: isinstance(value, bool))
PLAIN = checked("text or a number", lambda value: isinstance(value, (str, bool)) or value is None or _is_number(value))
NAME = checked("a name", lambda value: isinstance(value, str) and _NAME.fullmatch(value) is not None)
OPTION: Read = _option
