"""Batches from data that lie on the training device, in memory, on disk, or come from a loader."""

from __future__ import annotations

import logging
import queue
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Protocol

import numpy as np
import torch

from art_sensreg.training.distributed import Processes

logger = logging.getLogger(__name__)

Batch = tuple[torch.Tensor, torch.Tensor]
Dealt = tuple[torch.Tensor, torch.Tensor, int]


class Batches(Protocol):
    """
    A source of training batches.

    `rewindable` tells whether an epoch can be repeated from any step: then a run can resume inside of it. `micro_rows`
    are the rows, over all processes, that are computed at once where gradients are accumulated.
    """

    rewindable: bool
    micro_rows: int

    def __len__(self) -> int:
        """Steps of an epoch."""
        ...

    def epoch(self, seed: int, first: int, processes: Processes) -> Iterator[Dealt]:
        """
        Iterate over one epoch.

        :param seed: Seed of the order.
        :param first: Steps to leave out.
        :param processes: Those that share each batch.
        :return: This process's images and labels (at least one row), and the rows of the whole batch.
        """
        ...


class TensorBatches:
    """
    Shuffled batches of a data set that is held as two tensors, in memory or mapped from a file.

    :param x: Images, `(n, ...)`. If they are not on `device` their rows are gathered where they are, pinned and copied
        while the step before is computed.
    :param y: Labels, `(n, ...)`.
    :param batch_size: Rows of a batch, over all processes.
    :param drop_last: Whether an incomplete last batch is left out.
    :param least: An incomplete last batch of fewer rows joins the one before it: BatchNorm cannot normalise a single
        row.
    :param device: Where batches are needed; None: where `x` is.
    :param dtype: Floating point type of the batches; None: that of `x`.
    :param accumulate: Micro-batches of a batch, which is as many times as large.
    :param encode: What makes labels of a batch those that the loss takes.
    :param clip: Bounds that broadcast against a batch, within which it is clipped; or None.

    Example:
    >>> from art_sensreg.training.batches import TensorBatches
    >>> batches = TensorBatches(torch.rand(7, 2), torch.zeros(7), batch_size=3, least=2)
    >>> [total for _, _, total in batches.epoch(0, 0, Processes())], len(batches)
    ([3, 4], 2)
    """

    rewindable = True

    def __init__(
        self,
        x: torch.Tensor,
        y: torch.Tensor,
        batch_size: int,
        drop_last: bool = False,
        least: int = 1,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        accumulate: int = 1,
        encode: Callable[[torch.Tensor], torch.Tensor] = lambda y: y,
        clip: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> None:
        self.x, self.y = x, y.to(x.device)
        self._encode, self._clip = encode, clip
        self.micro_rows = batch_size
        batch_size *= accumulate
        self.device, self.dtype = device or x.device, dtype or x.dtype
        full, rest = divmod(len(x), batch_size)
        joined = 0 < rest < least and full > 0
        self._sizes = [batch_size] * full + ([rest] if rest and not joined and not (drop_last and full) else [])
        if joined and not drop_last:
            self._sizes[-1] += rest

    def __len__(self) -> int:
        return len(self._sizes)

    def look(self, rows: int) -> torch.Tensor:
        """
        The first images, to try the model on.

        :param rows: How many.
        :return: Images on the device, at most `rows`.
        """
        return clipped(self.x[:rows].to(self.device, self.dtype), self._clip)

    def sample(self, rows: int) -> Batch:
        """
        Some images and labels from all over the data.

        :param rows: How many.
        :return: At most `rows`, on the device.
        """
        chosen = torch.linspace(0, len(self.x) - 1, min(rows, len(self.x))).long().to(self.x.device)
        x, y = self.x.index_select(0, chosen), self.y.index_select(0, chosen)
        return clipped(x.to(self.device, self.dtype), self._clip), self._encode(y.to(self.device))

    def epoch(self, seed: int, first: int, processes: Processes) -> Iterator[Dealt]:
        """See :class:`Batches`."""
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(seed)).to(self.x.device)
        chunks = order[: sum(self._sizes)].split(self._sizes)[first:]
        gathered = (self._gather(rows, processes) for rows in chunks)
        return ahead(gathered) if self.device != self.x.device else gathered

    def _gather(self, rows: torch.Tensor, processes: Processes) -> Dealt:
        total = len(rows)
        if processes.count > 1:
            rows = rows[processes.rank :: processes.count] if processes.rank < total else rows[:1]
        x, y = self.x.index_select(0, rows), self.y.index_select(0, rows)
        x, y = to_device(x, self.device).to(self.dtype), self._encode(to_device(y, self.device))
        return clipped(x, self._clip), y, total


def clipped(x: torch.Tensor, bounds: tuple[torch.Tensor, torch.Tensor] | None) -> torch.Tensor:
    """
    Clip a batch.

    :param x: Images.
    :param bounds: Two tensors that broadcast against them, or None.
    :return: The same within the bounds.

    Example:
    >>> from art_sensreg.training.batches import clipped
    >>> clipped(torch.tensor([-0.1, 0.5]), (torch.tensor(0.0), torch.tensor(1.0)))
    tensor([0.0000, 0.5000])
    """
    return x if bounds is None else torch.clamp(x, *(bound.to(x) for bound in bounds))


def to_device(part: torch.Tensor, device: torch.device) -> torch.Tensor:
    """
    Bring a batch to a device; the host goes on while it is copied to a GPU.

    :param part: Images or labels.
    :param device: The device.
    :return: The same there.

    Example:
    >>> from art_sensreg.training.batches import to_device
    >>> to_device(torch.zeros(2), torch.device("cpu")).device
    device(type='cpu')
    """
    if device.type == "cuda" and part.device.type == "cpu":
        part = part.pin_memory()
    return part.to(device, non_blocking=True)


def ahead(items: Iterator[Dealt], depth: int = 2) -> Iterator[Dealt]:
    """
    Make the next items in a thread while the present one is used.

    :param items: An iterator.
    :param depth: Number of items made in advance.
    :return: The same items; an error in the thread is raised here.

    Example:
    >>> from art_sensreg.training.batches import ahead
    >>> list(ahead(iter([1, 2, 3])))
    [1, 2, 3]
    """
    made: queue.Queue[tuple[Dealt | None, BaseException | None]] = queue.Queue(depth)
    left = threading.Event()

    def put(entry: tuple[Dealt | None, BaseException | None]) -> bool:
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


class LoaderBatches:
    """
    Batches from a loader that has its own order: ART's data generators, torch's `DataLoader`.

    Its position cannot be set, so a run resumes at the start of an epoch. With several processes the first one draws,
    and deals the rows out: nothing is repeated or left out, whatever the loader's own randomness.

    :param start: Function that starts an epoch and returns its batches, in the host's memory.
    :param length: Number of batches of an epoch.
    :param restarts: Whether `start` begins anew, whatever was drawn before.
    :param device: Where batches are needed. Processes exchange them in the host's memory: a tensor sent from one GPU
        arrives on the one of the same number.
    :param accumulate: Batches of the loader that are joined to one.
    :param generators: Random generators of the loader's own, whose states belong to a checkpoint.

    Example:
    >>> from art_sensreg.training.batches import LoaderBatches
    >>> batches = LoaderBatches(lambda: iter([(torch.rand(3, 2), torch.zeros(3))] * 2), length=2)
    >>> sum(total for x, y, total in batches.epoch(0, 0, Processes()))
    6
    """

    rewindable = False

    def __init__(
        self,
        start: Callable[[], Iterable[Batch]],
        length: int,
        restarts: bool = False,
        device: torch.device = torch.device("cpu"),  # noqa: B008 - cannot be changed
        accumulate: int = 1,
        generators: Sequence[torch.Generator] = (),
    ) -> None:
        self._generators = generators
        self._start, self._restarts, self.device, self._accumulate = start, restarts, device, accumulate
        self.micro_rows = 1
        self._length = length
        self._begun: Iterator[Batch] | None = None
        self._drawn: list[Batch] = []

    def __len__(self) -> int:
        return -(-self._length // self._accumulate)

    def look(self, rows: int) -> torch.Tensor:
        """
        The first images, to try the model on. From a loader that goes on from there, they are trained on afterwards.

        :param rows: How many.
        :return: Images on the device, at most `rows`.
        """
        return self.sample(rows)[0]

    def sample(self, rows: int) -> Batch:
        """
        Images and labels of the first batch, as :meth:`look`.

        :param rows: How many.
        :return: At most `rows`, on the device.
        """
        first = self._drawn[0] if self._drawn else None
        if first is None:
            begun = iter(self._start())
            first = next(begun, None)
            if first is None:
                raise ValueError("`generator` gave no batch; expected some each time that it is gone through.")
            if not self._restarts:
                self._begun, self._drawn = begun, [first]
        return first[0][:rows].to(self.device), first[1][:rows].to(self.device)

    def state_dict(self) -> dict[str, Any]:
        """Where the loader's own generators stand, for a checkpoint."""
        return {"generators": [generator.get_state() for generator in self._generators]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Take back what `state_dict` returned.

        :param state: The same.
        """
        for generator, own in zip(self._generators, state["generators"], strict=True):
            generator.set_state(own)

    def epoch(self, seed: int, first: int, processes: Processes) -> Iterator[Dealt]:
        """See :class:`Batches`. The loader has its own order, drawn from torch's or numpy's global generator."""
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        source: Iterator[Batch] = iter(())
        if processes.rank == 0:
            source = iter(self._start()) if self._begun is None else chain(self._drawn, self._begun)
        self._begun, self._drawn = None, []
        left = self._length
        while left > 0:
            joined: list[Batch] = []
            for _ in range(min(self._accumulate, left)):
                drawn = next(source, None)
                x, y = processes.agree(drawn) if processes.count > 1 else drawn or (None, None)
                if x is None or y is None:
                    break
                joined.append((x, y))
                self.micro_rows = max(self.micro_rows, len(x))
            ended = len(joined) < min(self._accumulate, left)
            if joined:
                x, y = joined[0] if len(joined) == 1 else map(torch.cat, zip(*joined, strict=True))
                total = len(x)
                if processes.count > 1:
                    rows = slice(processes.rank, None, processes.count) if processes.rank < total else slice(0, 1)
                    x, y = x[rows], y[rows]
                yield to_device(x, self.device), to_device(y, self.device), total
            if ended and left == self._length and not joined:
                raise ValueError("`generator` gave no batch in this epoch; expected some each time it is gone through.")
            if ended:
                logger.warning("The loader ended before the %d batches that it announced.", self._length)
                return
            left -= self._accumulate
