"""Two descriptions of a run, compared: what differs, and what changed while a run went on."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from itertools import takewhile

Fingerprint = dict[str, dict[str, str]]
"""Sections of names and descriptions, in the order in which differences are looked for."""

CODE = re.compile(r"code (\d+\.\d+):[0-9a-f]+")
_SHOWN = 160


def first_difference(
    stored: Fingerprint, own: Fingerprint, moving: Mapping[str, Collection[str]] | None = None
) -> str | None:
    """
    The first difference of the fingerprint in a checkpoint from that of this run, in words, or None. `moving` names, by
    section, what changed while the run of the checkpoint went on, and so is not a setting.
    """
    for section, entries in own.items():
        before = stored.get(section, {})
        for name in [*entries, *(name for name in before if name not in entries)]:
            came, expected = before.get(name, "missing"), entries.get(name, "none of that name")
            if not _same(came, expected) and name not in (moving or {}).get(section, ()):
                came, expected = _about_difference(came, expected)
                return f"the {section} `{name}` is {came} in the checkpoint; expected {expected}"
    return None


def changed(before: Fingerprint, now: Fingerprint) -> dict[str, list[str]]:
    """What a run has changed since it began: counters, running averages, a rate set by hand. These are not settings."""
    names = {
        section: [
            name
            for name in {**entries, **before.get(section, {})}
            if entries.get(name) != before.get(section, {}).get(name)
        ]
        for section, entries in now.items()
    }
    return {section: found for section, found in names.items() if found}


def _same(came: str, expected: str) -> bool:
    if came == expected:
        return True
    versions = [set(CODE.findall(text)) for text in (came, expected)]
    # Each version of Python has a bytecode of its own: code of different versions cannot be compared.
    return all(versions) and versions[0] != versions[1] and CODE.sub("", came) == CODE.sub("", expected)


def _about_difference(came: str, expected: str) -> tuple[str, str]:
    """Of long texts, what is around the first difference."""
    if max(len(came), len(expected)) <= 3 * _SHOWN:
        return came, expected
    alike = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(came, expected, strict=False))))
    first = max(0, alike - _SHOWN // 2)
    shown = [text[first : first + _SHOWN] for text in (came, expected)]
    return f"{'... ' if first else ''}{shown[0]} ...", f"{'... ' if first else ''}{shown[1]} ..."
