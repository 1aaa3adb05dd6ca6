"""The examples on which a model is tried out before training."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

_SEED = 0
# Some models take a batch only if they can divide it: the ghost batches of a BatchNorm, say.
_MORE = (32, 128)
T = TypeVar("T")


def trial_rows(x: torch.Tensor, count: int = 8) -> torch.Tensor:
    """
    The first `count` examples, and noisy copies of them until there are enough.

    BatchNorm turns two examples into +1 and -1, whatever the weights are, so that few are too few.
    """
    rows = x[:count].detach()
    generator = torch.Generator().manual_seed(_SEED)
    while len(rows) < count:
        noise = torch.randn(rows.shape, generator=generator).to(rows)
        rows = torch.cat([rows, rows + 0.1 * noise])
    return rows[:count]


def with_enough_rows(look: Callable[[int], T], count: int) -> T:
    """Try a model on `count` examples, or on more if it does not take so few; raises what it raised at first."""
    first: Exception | None = None
    for number in (count, *_MORE):
        try:
            return look(number)
        except Exception as error:  # noqa: BLE001 - of any kind, and the first is raised
            first = first or error
    assert first is not None
    raise first


def two_batches(x: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two batches of different examples, in the range of the data; made up where there are too few."""
    both = x[torch.arange(2 * count, device=x.device) % len(x)]
    generator = torch.Generator().manual_seed(0)
    if len(x) < len(both) or bool((x == x[:1]).all()):
        low, high = x.min(), x.max()
        span = high - low if bool(high > low) else torch.ones_like(high)
        noise = torch.randn(both.shape, generator=generator).to(both) * span * 0.3
        noise[: 0 if bool((x == x[:1]).all()) else len(x)] = 0
        both = (both + noise).clamp(low, high) if bool(high > low) else both + noise
    return both[:count], both[count:]
