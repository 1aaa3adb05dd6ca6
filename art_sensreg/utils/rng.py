"""Seeds, and the global random states: those of Python, numpy and torch, which code of the user's own draws from."""

from __future__ import annotations

import hashlib
import random
import zlib
from typing import Any

import numpy as np
import torch


def derive_seed(*parts: int | str) -> int:
    """
    A seed for one purpose, from the run's seed and what it is for: `derive_seed(seed, "order", epoch)`.

    :param parts: Whole numbers and words.
    :return: A number of 63 bits; other parts give an unrelated one.

    Example:
    >>> from art_sensreg.utils.rng import derive_seed
    >>> derive_seed(0, "noise", 1) == derive_seed(0, "noise", 1)
    True
    >>> derive_seed(0, "noise", 1) == derive_seed(0, "noise", 2)
    False
    """
    text = "/".join(map(str, parts)).encode()
    # The low 32 bits are all that torch's generator on the CPU takes of a seed.
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def seed_everything(*parts: Any) -> None:
    """
    Seed the global generators that ART draws from, so that a resumed run gives the same numbers.

    :param parts: What the numbers are drawn for.
    """
    seed = zlib.crc32(repr(parts).encode())
    np.random.seed(seed)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """The global random states that code of the user's own may draw from: Python's, numpy's and torch's."""
    kind, words, numbers = random.getstate()
    name, keys, position, has_gauss, gauss = np.random.get_state()
    cuda = list(torch.cuda.get_rng_state_all()) if torch.cuda.is_available() else []
    return {
        "python": [kind, list(words), numbers],
        "numpy": [name, keys, position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """
    Put the global random states back.

    :param state: What :func:`random_state` returned.

    Example:
    >>> from art_sensreg.utils.rng import random_state, restore_random_state
    >>> before = random_state()
    >>> drawn = np.random.rand(), random.random(), torch.rand(1)
    >>> restore_random_state(before)
    >>> drawn == (np.random.rand(), random.random(), torch.rand(1))
    True
    """
    kind, words, numbers = state["python"]
    random.setstate((kind, tuple(words), numbers))
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, np.asarray(keys), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == (torch.cuda.device_count() if torch.cuda.is_available() else 0):
        for index, value in enumerate(state["cuda"]):
            torch.cuda.set_rng_state(value, index)
