"""The names that a misspelt one may have meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


def did_you_mean(name: Any, known: Iterable[str], count: int = 3) -> str:
    """
    The known names nearest to a wrong one, as the end of an error message.

    :param name: What came.
    :param known: The names allowed.
    :param count: Most names that are suggested.
    :return: `; did you mean ...?`, or nothing if none is near.

    Example:
    >>> from art_sensreg.utils.suggestions import did_you_mean
    >>> did_you_mean("art-mardy", ["none", "art-madry"]), did_you_mean("magic", ["none"])
    ('; did you mean art-madry?', '')
    """
    by_key = {_key(other): other for other in known}
    near = get_close_matches(_key(str(name)[:100]), by_key, n=count, cutoff=0.6)
    return f"; did you mean {' or '.join(by_key[key] for key in near)}?" if near else ""


def _key(name: str) -> str:
    return name.lower().replace("_", "-")
