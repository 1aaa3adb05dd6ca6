"""The resources of the process that a training run uses: its turn, memory, and the layout of weights."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from art_sensreg.training.optimizers import match_layout

logger = logging.getLogger(__name__)

# Options of glibc's `mallopt` (malloc.h). Once one is set, glibc no longer adapts them; so what is restored at the end
# is where its own adaptation ends up in a process that has freed large blocks, not its starting point.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_ADAPTED = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 * 2**20, _TRIM_THRESHOLD: 64 * 2**20}

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
"""By the number of dimensions: images, and volumes or videos. Tensors of others have one layout only."""


class TrainingTurn:
    """
    One training run at a time in a process: runs share torch's global generator, which each of them seeds every step.

    A run in another thread waits; one that is started from a callback of the run in progress goes ahead.
    """

    patience = 60.0
    """A callback that waits for a run in another thread would wait for ever: after so many seconds it is refused."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._owner: threading.Thread | None = None
        self._depth = 0
        self._callback: object | None = None  # the call of a callback that is under way

    @contextmanager
    def taken(self) -> Iterator[None]:
        """
        Inside, no other thread trains: it waits. RuntimeError if the other run is in a callback that does not end: it
        may be waiting for this run.
        """
        if not self._lock.acquire(blocking=False):
            self._wait()
        self._owner, self._depth = threading.current_thread(), self._depth + 1
        try:
            yield
        finally:
            self._depth -= 1
            self._owner = self._owner if self._depth else None
            self._lock.release()

    @contextmanager
    def in_callback(self) -> Iterator[None]:
        """Mark that the user's own code runs, which may wait for something."""
        before, self._callback = self._callback, object()
        try:
            yield
        finally:
            self._callback = before

    def _wait(self) -> None:
        owner = self._owner.name if self._owner is not None else "another thread"
        logger.warning("Training waits until the run in thread %r is over: one at a time in a process.", owner)
        seen, since = self._callback, time.monotonic()
        while not self._lock.acquire(timeout=min(0.1, self.patience)):
            if self._callback is None or self._callback is not seen:
                seen, since = self._callback, time.monotonic()
            elif time.monotonic() - since > self.patience:
                raise RuntimeError(
                    f"A training run in thread {owner!r} is in a callback that has not ended for {self.patience:g} "
                    "seconds, and may be waiting for this one; a process does one run at a time: start it in the "
                    "thread of the callback."
                )

    def renew(self) -> None:
        """In a forked process the thread that held the lock may not exist."""
        if self._owner is not threading.current_thread():
            self._lock, self._owner, self._depth, self._callback = threading.RLock(), None, 0, None


TURN = TrainingTurn()
one_run_at_a_time = TURN.taken
"""Context manager and decorator of this process: see :meth:`TrainingTurn.taken`."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=TURN.renew)


@contextmanager
def freed_memory_kept(device: torch.device) -> Iterator[None]:
    """
    Keep freed memory in the process while training on the CPU.

    By default glibc gives each large activation back to the system when it is freed, and takes it again, page by page,
    in the next step, which costs a good part of a step (docs/training.md). Other allocators and systems, and threads
    other than the main one, are left alone.
    """
    library = _glibc() if device.type == "cpu" else None
    if library is None:
        yield
        return
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        for option, value in _ADAPTED.items():
            library.mallopt(option, value)


def _glibc() -> Any:
    if not sys.platform.startswith("linux") or threading.current_thread() is not threading.main_thread():
        return None
    try:
        library = ctypes.CDLL(None)
    except OSError:
        return None
    return library if hasattr(library, "mallopt") and hasattr(library, "gnu_get_libc_version") else None


@contextmanager
def channels_last(model: nn.Module, optimizer: torch.optim.Optimizer, wanted: bool = True) -> Iterator[None]:
    """
    Lay weights out channels last inside; afterwards each lies as it did before, also after an error.

    :param model: The model.
    :param optimizer: Its optimizer, whose averages lie as the weights do.
    :param wanted: False: nothing is done.

    Example:
    >>> from art_sensreg.training.resources import channels_last
    >>> layer = nn.Conv2d(3, 4, 2)
    >>> before = layer.weight.stride()
    >>> with channels_last(layer, torch.optim.SGD(layer.parameters(), lr=0.1)):
    ...     inside = layer.weight.stride()
    >>> before, inside, layer.weight.stride() == before
    ((12, 4, 2, 1), (12, 1, 6, 3), True)
    """
    tensors = [*model.parameters(), *model.buffers()] if wanted else []
    before = [(tensor, tensor.stride()) for tensor in tensors if tensor.ndim in CHANNELS_LAST]
    for tensor, _ in before:
        tensor.data = tensor.data.contiguous(memory_format=CHANNELS_LAST[tensor.ndim])
    match_layout(optimizer)
    try:
        yield
    finally:
        for tensor, stride in before:
            if tensor.stride() != stride:
                values = tensor.data
                tensor.data = torch.empty_strided(values.shape, stride, dtype=values.dtype, device=values.device)
                tensor.data.copy_(values)
        match_layout(optimizer)
