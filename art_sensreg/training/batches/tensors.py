"""Shuffled batches of tensors on the training device, in memory or in a file."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from art_sensreg.training.batches.base import Batch, GlobalBatch, clipped, evenly_spaced, to_device
from art_sensreg.training.distributed import Processes


@dataclass(frozen=True)
class BatchSizes:
    """
    How a data set is divided into batches.

    :param size: Examples computed at once, over all processes.
    :param drop_last: Whether an incomplete last batch is left out.
    :param least: An incomplete last batch smaller than this joins the one before it: BatchNorm cannot normalise a
        single example.
    :param accumulate: Micro-batches of a batch, which is that many times `size`.

    Example:
    >>> from art_sensreg.training.batches import BatchSizes
    >>> BatchSizes(3).of(7), BatchSizes(3, least=2).of(7), BatchSizes(3, drop_last=True).of(7)
    ([3, 3, 1], [3, 4], [3, 3])
    """

    size: int
    drop_last: bool = False
    least: int = 1
    accumulate: int = 1

    def of(self, count: int) -> list[int]:
        """The sizes of the batches of so many examples."""
        whole = self.size * self.accumulate
        full, rest = divmod(count, whole)
        joined = 0 < rest < self.least and full > 0
        sizes = [whole] * full + ([rest] if rest and not joined and not (self.drop_last and full) else [])
        if joined and not self.drop_last:
            sizes[-1] += rest
        return sizes


@dataclass(frozen=True, kw_only=True)
class BatchForm:
    """
    What is made of a batch of the data.

    :param device: Where it is needed; None: where the images are.
    :param dtype: Its floating point type; None: that of the images.
    :param encode: Function that turns its labels into what the loss takes.
    :param clip: Bounds that broadcast against its images, which are clipped to them; or None.
    """

    device: torch.device | None = None
    dtype: torch.dtype | None = None
    encode: Callable[[torch.Tensor], torch.Tensor] = lambda y: y
    clip: tuple[torch.Tensor, torch.Tensor] | None = None


class TensorBatches:
    """
    Shuffled batches of a data set that is held as two tensors, in memory or mapped from a file.

    :param x: Images, `(n, ...)`. If they are not on the device of the batches, each batch is gathered where they are,
        pinned and copied while the step before is computed.
    :param y: Labels, `(n, ...)`.
    :param sizes: How the data are divided into batches.
    :param form: What is made of a batch.

    Example:
    >>> from art_sensreg.training.batches import BatchSizes, TensorBatches
    >>> batches = TensorBatches(torch.rand(7, 2), torch.zeros(7), BatchSizes(3, least=2))
    >>> [batch.total for batch in batches.epoch(0, 0, Processes())], len(batches)
    ([3, 4], 2)
    """

    rewindable = True

    def __init__(self, x: torch.Tensor, y: torch.Tensor, sizes: BatchSizes, form: BatchForm | None = None) -> None:
        form = form or BatchForm()
        self.x, self.y = x, y.to(x.device)
        self._encode, self._clip = form.encode, form.clip
        self.device, self.dtype = form.device or x.device, form.dtype or x.dtype
        self.micro_batch_size, self._sizes = sizes.size, sizes.of(len(x))
        self.count: int | None = len(x)

    def __len__(self) -> int:
        return len(self._sizes)

    @property
    def largest(self) -> int:
        """The size of the largest batch, over all processes."""
        return max(self._sizes)

    def look(self, size: int) -> torch.Tensor:
        """The first images, at most `size`, on the device: to try the model on."""
        return clipped(self.x[:size].to(self.device, self.dtype), self._clip)

    def sample(self, size: int) -> Batch:
        """At most `size` images and labels, spread over the data, on the device."""
        chosen = evenly_spaced(len(self.x), size).to(self.x.device)
        x, y = self.x.index_select(0, chosen), self.y.index_select(0, chosen)
        return clipped(x.to(self.device, self.dtype), self._clip), self._encode(y.to(self.device))

    def epoch(self, seed: int, first: int, processes: Processes) -> Iterator[GlobalBatch]:
        """See :class:`~art_sensreg.training.batches.base.Batches`."""
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(seed)).to(self.x.device)
        chunks = order[: sum(self._sizes)].split(self._sizes)[first:]
        gathered = (self._gather(indices, processes) for indices in chunks)
        return prefetch(gathered) if self.device != self.x.device else gathered

    def _gather(self, indices: torch.Tensor, processes: Processes) -> GlobalBatch:
        total, own = len(indices), indices
        if processes.count > 1:
            own = indices[processes.part(total)]
        x, y = self.x.index_select(0, own), self.y.index_select(0, own)
        x, y = to_device(x, self.device).to(self.dtype), self._encode(to_device(y, self.device))
        return GlobalBatch(clipped(x, self._clip), y, total, indices)

    def state_dict(self) -> dict[str, Any]:
        """Empty: an epoch is determined by its seed."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


def prefetch(items: Iterator[GlobalBatch]) -> Iterator[GlobalBatch]:
    """Make the next two items in a thread while the present one is used; an error there is raised here."""
    made: queue.Queue[tuple[GlobalBatch | None, BaseException | None]] = queue.Queue(2)
    left = threading.Event()

    def put(entry: tuple[GlobalBatch | None, BaseException | None]) -> bool:
        while not left.is_set():
            try:
                made.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
        except BaseException as error:  # noqa: BLE001 - it is raised again where the items are used
            put((None, error))
        else:
            put((None, None))

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            item, error = made.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        left.set()
