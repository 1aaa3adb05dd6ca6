"""Batches from a loader that has its own order: ART's data generators, torch's `DataLoader`."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch

from art_sensreg.training.batches.base import Batch, GlobalBatch, to_device
from art_sensreg.training.distributed import Processes

logger = logging.getLogger(__name__)

LoadedBatch = tuple[torch.Tensor, ...]
"""Images, labels and, if they are known, the indices of the images."""


class LoaderBatches:
    """
    Batches from a loader.

    Its position cannot be set, so a run resumes at the start of an epoch. With several processes the first one draws
    and sends each batch to the others: nothing is repeated or left out, whatever the loader's own randomness.

    :param start: Function that starts an epoch and returns its batches, in the host's memory.
    :param length: Number of batches of an epoch.
    :param restarts: Whether `start` starts over, whatever was drawn before.
    :param device: Where batches are needed. Processes exchange them in the host's memory: a tensor sent from one GPU
        arrives on the one of the same number.
    :param accumulate: Batches of the loader that are joined to one.
    :param generators: The loader's own random generators, whose states belong to a checkpoint.
    :param count: Number of images of the data set, if batches come with the indices of their images as a third tensor.

    Example:
    >>> from art_sensreg.training.batches import LoaderBatches
    >>> batches = LoaderBatches(lambda: iter([(torch.rand(3, 2), torch.zeros(3))] * 2), length=2)
    >>> sum(batch.total for batch in batches.epoch(0, 0, Processes()))
    6
    """

    rewindable = False

    def __init__(
        self,
        start: Callable[[], Iterable[LoadedBatch]],
        length: int,
        restarts: bool = False,
        device: torch.device = torch.device("cpu"),  # noqa: B008 - cannot be changed
        accumulate: int = 1,
        generators: Sequence[torch.Generator] = (),
        count: int | None = None,
    ) -> None:
        self.device, self.micro_batch_size, self.count = device, 1, count
        self._start, self._length, self._restarts = start, length, restarts
        self._accumulate, self._generators = accumulate, generators
        self._begun: Iterator[LoadedBatch] | None = None
        self._drawn: list[LoadedBatch] = []

    def __len__(self) -> int:
        return -(-self._length // self._accumulate)

    def look(self, size: int) -> torch.Tensor:
        """At most `size` images of the first batch. A loader that goes on from there trains on them afterwards."""
        return self.sample(size)[0]

    def sample(self, size: int) -> Batch:
        """Images and labels of the first batch, at most `size`, on the device; see :meth:`look`."""
        first = self._drawn[0] if self._drawn else None
        if first is None:
            begun = iter(self._start())
            first = next(begun, None)
            if first is None:
                raise ValueError("`generator` yielded no batch; expected some every time it is iterated over.")
            if not self._restarts:
                self._begun, self._drawn = begun, [first]
        return first[0][:size].to(self.device), first[1][:size].to(self.device)

    def state_dict(self) -> dict[str, Any]:
        """The states of the loader's own generators."""
        return {"generators": [generator.get_state() for generator in self._generators]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for generator, own in zip(self._generators, state["generators"], strict=True):
            generator.set_state(own)

    def epoch(self, seed: int, first: int, processes: Processes) -> Iterator[GlobalBatch]:
        """See :class:`~art_sensreg.training.batches.base.Batches`. The order is drawn from the global generators."""
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        source: Iterator[LoadedBatch] = iter(())
        if processes.rank == 0:
            source = iter(self._start()) if self._begun is None else chain(self._drawn, self._begun)
        self._begun, self._drawn = None, []
        left = self._length
        while left > 0:
            wanted = min(self._accumulate, left)
            drawn = self._draw(source, wanted, processes)
            if drawn:
                yield self._joined(drawn, processes)
            elif left == self._length:
                raise ValueError(
                    "`generator` yielded no batch in this epoch; expected some every time it is iterated over."
                )
            if len(drawn) < wanted:
                logger.warning("The loader ended before the %d batches that its length promised.", self._length)
                return
            left -= self._accumulate

    def _draw(self, source: Iterator[LoadedBatch], wanted: int, processes: Processes) -> list[LoadedBatch]:
        """The next batches of the loader, the same on every process; fewer than `wanted` where it has ended."""
        found: list[LoadedBatch] = []
        while len(found) < wanted:
            drawn = processes.agree(next(source, None))
            if drawn is None:
                break
            found.append(drawn)
            self.micro_batch_size = max(self.micro_batch_size, len(drawn[0]))
        return found

    def _joined(self, drawn: list[LoadedBatch], processes: Processes) -> GlobalBatch:
        parts = drawn[0] if len(drawn) == 1 else tuple(map(torch.cat, zip(*drawn, strict=True)))
        x, y, *indices = parts
        total = len(x)
        if processes.count > 1:
            x, y = x[processes.part(total)], y[processes.part(total)]
        places = indices[0] if indices else None
        return GlobalBatch(to_device(x, self.device), to_device(y, self.device), total, places)
