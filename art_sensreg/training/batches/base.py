"""The interface of all sources of training batches, and what they share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch

from art_sensreg.training.distributed import Processes

Batch = tuple[torch.Tensor, torch.Tensor]


class GlobalBatch(NamedTuple):
    """
    One batch of all processes, as one of them sees it.

    :param x: Images of this process, at least one.
    :param y: Their labels.
    :param total: Size of the batch over all processes.
    :param indices: Which images of the data set the batch has, over all processes, `(total,)`, where the data are; None
        if that is unknown.
    """

    x: torch.Tensor
    y: torch.Tensor
    total: int
    indices: torch.Tensor | None = None


class Batches(Protocol):
    """
    A source of training batches.

    `rewindable` tells whether an epoch can be repeated from any step: then a run can resume inside it.
    `micro_batch_size` is the number of examples, over all processes, that are computed at once where gradients are
    accumulated. `count` is the number of images, whose indices come with each batch; None if images have no identity.
    """

    rewindable: bool
    micro_batch_size: int
    count: int | None

    def __len__(self) -> int:
        """Number of steps per epoch."""
        ...

    def look(self, size: int) -> torch.Tensor:
        """Some images of the data, at most `size`, on the device."""
        ...

    def epoch(self, seed: int, first: int, processes: Processes) -> Iterator[GlobalBatch]:
        """Iterate over one epoch in an order drawn from `seed`, without its first `first` steps."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The state of the source that a checkpoint must contain."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        ...


def clipped(x: torch.Tensor, bounds: tuple[torch.Tensor, torch.Tensor] | None) -> torch.Tensor:
    """Clip images to two tensors that broadcast against them; None leaves them as they are."""
    return x if bounds is None else torch.clamp(x, *(bound.to(x) for bound in bounds))


def to_device(part: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Bring images or labels to a device; the host continues while they are copied to a GPU."""
    if device.type == "cuda" and part.device.type == "cpu":
        part = part.pin_memory()
    return part.to(device, non_blocking=True)


def evenly_spaced(count: int, wanted: int) -> torch.Tensor:
    """
    Indices of at most `wanted` of `count` things, spread over all of them.

    Example:
    >>> from art_sensreg.training.batches.base import evenly_spaced
    >>> evenly_spaced(9, 3).tolist()
    [0, 4, 8]
    """
    return torch.linspace(0, count - 1, min(wanted, count)).long()
