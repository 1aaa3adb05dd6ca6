"""Batches that come several times in a row, whose examples are known by their places in the batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from art_sensreg.training.batches.base import GlobalBatch
from art_sensreg.training.batches.tensors import TensorBatches
from art_sensreg.training.distributed import Processes


class Replayed:
    """
    The batches of another source, each `replays` times; `indices` are places in the batch, as Free training needs them.

    Example:
    >>> from art_sensreg.training.batches import BatchSizes, TensorBatches
    >>> from art_sensreg.training.batches.replayed import Replayed
    >>> batches = Replayed(TensorBatches(torch.rand(5, 2), torch.zeros(5), BatchSizes(3)), replays=2)
    >>> [batch.indices.tolist() for batch in batches.epoch(0, 1, Processes())], len(batches)
    ([[0, 1, 2], [0, 1], [0, 1]], 4)
    """

    def __init__(self, batches: TensorBatches, replays: int) -> None:
        self._batches, self._replays = batches, replays
        self.rewindable, self.micro_batch_size = batches.rewindable, batches.micro_batch_size
        self.count: int | None = batches.largest

    def __len__(self) -> int:
        return self._replays * len(self._batches)

    def look(self, size: int) -> torch.Tensor:
        """See :class:`~art_sensreg.training.batches.base.Batches`."""
        return self._batches.look(size)

    def epoch(self, seed: int, first: int, processes: Processes) -> Iterator[GlobalBatch]:
        """See :class:`~art_sensreg.training.batches.base.Batches`."""
        whole, done = divmod(first, self._replays)
        for batch in self._batches.epoch(seed, whole, processes):
            places = torch.arange(batch.total, device=batch.x.device)
            for _ in range(done, self._replays):
                yield batch._replace(indices=places)
            done = 0

    def state_dict(self) -> dict[str, Any]:
        """See :class:`~art_sensreg.training.batches.base.Batches`."""
        return self._batches.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`~art_sensreg.training.batches.base.Batches`."""
        self._batches.load_state_dict(state)
