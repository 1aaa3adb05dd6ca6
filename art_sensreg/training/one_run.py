"""One training run at a time in a process: runs share torch's global generator, which each of them seeds every step."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

# A callback that waits for a run in another thread would wait for ever: such a run is refused after so many seconds.
PATIENCE = 60.0

_lock = threading.RLock()
_owner: threading.Thread | None = None
_depth = 0
_callback: object | None = None  # the call of a callback that is under way


@contextmanager
def one_run_at_a_time() -> Iterator[None]:
    """
    Inside, no other thread trains: it waits. A run that is started from a callback of another one goes ahead.

    :raises RuntimeError: If the other run is in a callback that does not end: it may be waiting for this run.

    Example:
    >>> from art_sensreg.training.one_run import one_run_at_a_time
    >>> with one_run_at_a_time(), one_run_at_a_time():
    ...     print("a run inside of a run")
    a run inside of a run
    """
    global _owner, _depth
    if not _lock.acquire(blocking=False):
        _wait()
    _owner, _depth = threading.current_thread(), _depth + 1
    try:
        yield
    finally:
        _depth -= 1
        _owner = _owner if _depth else None
        _lock.release()


def _wait() -> None:
    owner = _owner.name if _owner is not None else "another thread"
    logger.warning("Training waits until the run in thread %r is over: one at a time in a process.", owner)
    seen, since = _callback, time.monotonic()
    while not _lock.acquire(timeout=min(0.1, PATIENCE)):
        if _callback is None or _callback is not seen:
            seen, since = _callback, time.monotonic()
        elif time.monotonic() - since > PATIENCE:
            raise RuntimeError(
                f"A training run in thread {owner!r} is in a callback that has not ended for {PATIENCE:g} seconds, and "
                "may be waiting for this one; a process does one run at a time: start it in the thread of the callback."
            )


@contextmanager
def in_callback() -> Iterator[None]:
    """Mark that code of the user's own runs, which may wait for something."""
    global _callback
    before, _callback = _callback, object()
    try:
        yield
    finally:
        _callback = before


def _renew() -> None:
    """In a forked process the thread that held the lock may not exist."""
    global _lock, _owner, _depth, _callback
    if _owner is not threading.current_thread():
        _lock, _owner, _depth, _callback = threading.RLock(), None, 0, None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
