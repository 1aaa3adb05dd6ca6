"""Several processes that train one model: which examples each of them gets, and what they exchange."""

from __future__ import annotations

import atexit
import gc
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from importlib import import_module
from typing import Any

import torch
import torch.distributed as dist

from art_sensreg.penalties.inputs import WHOLE_BATCH, Share

logger = logging.getLogger(__name__)

# Longer than anything that one process does alone while the others wait (ART's trainers run on the first one). That a
# process has died is seen at once: its connections close.
_PATIENCE = timedelta(hours=12)
_CLOSED = ("connection closed", "connection reset", "connection refused", "by peer", "broken pipe")
_BROKEN = (*_CLOSED, "socket", "timed out", "nccl", "gloo")


class ProcessLostError(RuntimeError):
    """Another process of this job has gone; the work since the last checkpoint is lost."""


@dataclass(frozen=True)
class Processes:
    """
    The processes that share the work; by default this one alone. Tensors must be on `device` to be exchanged.

    What they exchange raises :class:`ProcessLostError` if another process has gone.

    Example:
    >>> from art_sensreg.training.distributed import Processes
    >>> Processes().sum([1.0, 2.0])
    [1.0, 2.0]
    >>> Processes(rank=1, count=2).share(total=5, noisy=3)
    (2, Share(noisy_rows=1, weight=0.8, noisy_weight=0.6666666666666666, sum_weight=2.0, base_weight=None))
    """

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def share(self, total: int, noisy: int) -> tuple[int, Share]:
        """
        How much of a global batch, of which the first `noisy` examples get noisy copies, is this process's (its
        examples are `rank, rank + count, ...`), and how that is weighted. A process for which no example is left
        still computes one, with weight 0, since all must take part.
        """
        if self.count == 1:
            return total, WHOLE_BATCH if noisy == total else Share(noisy)
        own, own_noisy = (len(range(self.rank, size, self.count)) for size in (total, noisy))
        whole = self.count if own else 0
        weights = own * self.count / total, own_noisy * self.count / noisy, float(whole)
        share = Share(max(own_noisy, 1), *weights, mean=self.mean)
        return own, share

    def part(self, total: int) -> slice:
        """Which examples of a batch are for this process: every `count`-th, or the first one if none is left for it."""
        return slice(self.rank, None, self.count) if self.rank < total else slice(0, 1)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Add up numbers over the processes: the sums are the same on each of them."""
        if self.count == 1:
            return list(values)
        sums: list[float] = self.sum_tensor(torch.tensor(values, dtype=torch.float64)).tolist()
        return sums

    def sum_tensor(self, values: torch.Tensor) -> torch.Tensor:
        """Add up a tensor (overwritten) over the processes; the host does not wait if it is on their device already."""
        if self.count == 1:
            return values
        vector = values.to(self.device)
        with lost_processes_named():
            dist.all_reduce(vector)
        return vector

    def gather_examples(self, values: torch.Tensor, total: int) -> torch.Tensor:
        """
        Values of the examples of a global batch in their order, `(total, ...)`, on every process, from those of each
        process's own (see :meth:`part`).
        """
        if self.count == 1:
            return values[:total]
        most = -(-total // self.count)
        own = torch.zeros(most, *values.shape[1:], dtype=values.dtype, device=self.device)
        own[: len(values)] = values[:most]
        parts = [torch.empty_like(own) for _ in range(self.count)]
        with lost_processes_named():
            dist.all_gather(parts, own)
        return torch.stack(parts, dim=1).flatten(0, 1)[:total].to(values.device)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean of a tensor over the processes, where it is; without a graph."""
        return self.sum_tensor(values.detach().clone()).to(values.device) / self.count

    def agree(self, value: Any) -> Any:
        """The first process's value, on every process: anything that can be pickled."""
        if self.count == 1:
            return value
        values = [value]
        with lost_processes_named():
            dist.broadcast_object_list(values, src=0, device=self.device)
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes in the order of their ranks, on every process: anything that can be pickled."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        with lost_processes_named():
            dist.all_gather_object(values, value)
        return values


def join_processes(device: torch.device) -> Processes:
    """
    The processes of this job: those of the user's own process group, or of `torchrun`, which is joined now; this one
    alone outside a distributed job.
    """
    if not dist.is_available():
        return Processes()
    if not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1 and dist.is_torchelastic_launched():
        # Functions of this module have the group of the moment of import as a default argument. DistributedDataParallel
        # imports it: after the group is made, they would hold the group, and its threads, for as long as Python runs.
        import_module("torch.distributed.nn.functional")
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=_PATIENCE)
        atexit.register(leave_processes)
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return Processes()
    needs_gpu = dist.get_backend() == "nccl"
    return Processes(dist.get_rank(), dist.get_world_size(), device if needs_gpu else torch.device("cpu"))


def leave_processes() -> None:
    """
    Leave the job and end the threads of its connections.

    A thread that is still at work while the interpreter shuts down aborts the process.
    """
    if dist.is_available() and dist.is_initialized():
        gc.collect()  # what is left of a wrapped model holds on to the connections
        dist.destroy_process_group()


def local_device(device: torch.device) -> torch.device:
    """The GPU of this process: `cuda` without an index becomes that of `torchrun`'s local rank."""
    if device.type != "cuda" or device.index is not None or not torch.cuda.is_available():
        return device
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


@contextmanager
def lost_processes_named() -> Iterator[None]:
    """Turn the many errors of a broken connection into one that says what happened and what to do."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()
        if not any(word in text for word in _BROKEN):
            raise
        reason = str(error).splitlines()[0]
        message = (
            f"Another process of this job has gone ({reason}). Start the job again with `resume=True` (`--resume`): it "
            "continues from the last checkpoint."
        )
        # At once: `torchrun` ends the processes that are left within moments, maybe before a traceback is written.
        logger.error("%s", message)
        raise ProcessLostError(message) from error
