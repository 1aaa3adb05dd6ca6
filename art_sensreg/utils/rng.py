"""Seeds, and the global random states: those of Python, numpy and torch, from which the user's own code draws."""

from __future__ import annotations

import hashlib
import random
import zlib
from typing import Any

import numpy as np
import torch


def derive_seed(*parts: int | str) -> int:
    """A seed of 63 bits for one purpose, from the run's and what it is for: `derive_seed(seed, "order", epoch)`."""
    text = "/".join(map(str, parts)).encode()
    # The low 32 bits are all that torch's generator on the CPU takes of a seed.
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def seed_everything(*parts: Any) -> None:
    """Seed the global generators that ART draws from by what they draw for: a resumed run gives the same numbers."""
    seed = zlib.crc32(repr(parts).encode())
    np.random.seed(seed)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """The global random states as plain values and tensors, which a checkpoint can hold."""
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
    """Restore what :func:`random_state` returned; those of GPUs only if there are as many."""
    kind, words, numbers = state["python"]
    random.setstate((kind, tuple(words), numbers))
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, np.asarray(keys), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == (torch.cuda.device_count() if torch.cuda.is_available() else 0):
        for index, value in enumerate(state["cuda"]):
            torch.cuda.set_rng_state(value, index)
