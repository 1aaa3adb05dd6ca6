"""The random state outside of this package, which code of the user's own draws from."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def preserve_global_rng_state(seed: int | None = None) -> Iterator[None]:
    """
    Inside, Python's, numpy's and torch's global generators may be seeded: outside they go on as if nothing was drawn.

    :param seed: What they are seeded with; None: they are left as they are, and torch's is not put back.

    Example:
    >>> from art_sensreg.utils.rng import preserve_global_rng_state
    >>> before = random.getstate()
    >>> with preserve_global_rng_state():
    ...     random.seed(0)
    >>> random.getstate() == before
    True
    """
    python, numpy, generator = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed)
            torch.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        if seed is not None:
            torch.set_rng_state(generator)


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
