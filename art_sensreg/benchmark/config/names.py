"""Names of defences and attacks: they appear in file names, lists on the command line and tables."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Any

from art_sensreg.utils import shown

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+_-]{0,63}")
# Words that stand for several names on the command line.
_GROUPS = ("all", "trainers")


def check_new_name(name: Any, taken: Container[str]) -> None:
    """Refuse the name of a new defence or attack that is taken, or cannot be part of a list or a file's name."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _GROUPS:
        raise ValueError(f"`name` is {shown(name)}; expected a word of at most 64 letters, digits, `+`, `-` and `_`.")
    if name in taken:
        raise ValueError(f"`name` is {name!r}, which is taken; expected a new one.")
