"""Validation data: two tensors, or batches of a loader that are drawn anew for every epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

from art_sensreg.training.batches.base import Batch, clipped, evenly_spaced
from art_sensreg.utils.model_rng import preserve_rng_state


class HeldOut(Protocol):
    """Images and labels on which a model is scored but not trained."""

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Go through the data, every time in the same order: images and labels, in the form that the loss takes."""
        ...

    def sample(self, size: int) -> Batch:
        """At most `size` images and labels."""
        ...


class HeldOutTensors:
    """
    Two tensors.

    :param x: Images, `(n, ...)`.
    :param y: Labels.
    :param encode: Function that turns the labels of a batch into what the loss takes.
    :param clip: Bounds to which images are clipped, or None.

    Example:
    >>> from art_sensreg.training.batches import HeldOutTensors
    >>> [len(x) for x, _ in HeldOutTensors(torch.rand(5, 2), torch.zeros(5)).batches(2)]
    [2, 2, 1]
    """

    def __init__(
        self,
        x: torch.Tensor,
        y: torch.Tensor,
        encode: Callable[[torch.Tensor], torch.Tensor] = lambda y: y,
        clip: Batch | None = None,
    ) -> None:
        self.x, self.y, self._encode, self._clip = x, y, encode, clip

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """See :class:`HeldOut`."""
        for x, y in zip(self.x.split(batch_size), self.y.split(batch_size), strict=True):
            yield clipped(x, self._clip), self._encode(y)

    def sample(self, size: int) -> Batch:
        """See :class:`HeldOut`: spread over the data."""
        chosen = evenly_spaced(len(self.x), size).to(self.x.device)
        return clipped(self.x[chosen], self._clip), self._encode(self.y[chosen])


class HeldOutLoader:
    """
    Batches of a loader, never all in memory.

    Whatever it draws at random, its order or crops, is drawn from the same seeds every time.

    :param start: Function that starts over and returns the batches.
    :param length: Number of batches, or about that many.
    :param source: The loader itself.

    Example:
    >>> from art_sensreg.training.batches import HeldOutLoader
    >>> held_out = HeldOutLoader(lambda: iter([(torch.rand(3, 2), torch.zeros(3))] * 2), length=2)
    >>> [len(x) for x, _ in held_out.batches(2)], len(held_out.sample(4)[0])
    ([2, 1, 2, 1], 4)
    """

    def __init__(self, start: Callable[[], Iterator[Batch]], length: int = 1, source: Any = None) -> None:
        self._start, self._length, self.source = start, length, source

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """See :class:`HeldOut`."""
        with preserve_rng_state(seed=0):
            for x, y in self._start():
                yield from zip(x.split(batch_size), y.split(batch_size), strict=True)

    def check(self) -> None:
        """Draw the first batch, whose content is checked on the way; ValueError if there is none."""
        if next(self.batches(1), None) is None:
            raise ValueError("`validation_data` yielded no batch; expected at least one.")

    def sample(self, size: int) -> Batch:
        """See :class:`HeldOut`: some of every batch, since they may be sorted by class."""
        each = max(1, -(-size // self._length))
        found = []
        with preserve_rng_state(seed=0):
            for x, y in self._start():
                chosen = evenly_spaced(len(x), each)
                found.append((x[chosen], y[chosen]))
        x, y = (torch.cat(parts) for parts in zip(*found, strict=True))
        chosen = evenly_spaced(len(x), size)
        return x[chosen], y[chosen]
