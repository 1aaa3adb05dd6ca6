"""Ctrl-C ends a program, wherever it comes."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# Seconds until a Ctrl-C that has not ended the program is raised again, and between that and the next time.
_DELAY = 0.1


@contextmanager
def interrupts_never_lost() -> Iterator[None]:
    """
    Once Ctrl-C has come, raise KeyboardInterrupt until it leaves the block; not while it is being handled, so that what
    cleans up is left in peace.

    Raised once, it may get lost: Python drops what is raised in a destructor or in the callback of a weak reference,
    and every import has such a callback; and packages that try an import catch whatever it raises. A Ctrl-C while torch
    imports something late would do nothing, and the run go on for hours. In the main thread only, where Ctrl-C is
    neither ignored nor handled by the caller, and where there are timers (not on Windows).

    Example:
    >>> from art_sensreg.benchmark.cli.interrupts import interrupts_never_lost
    >>> with interrupts_never_lost():
    ...     print("a long run")
    a long run
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        or not hasattr(signal, "setitimer")
    ):
        yield
        return
    report = sys.unraisablehook
    former = signal.signal(signal.SIGALRM, _again)
    signal.signal(signal.SIGINT, _interrupt)
    sys.unraisablehook = lambda dropped: None if dropped.exc_type is KeyboardInterrupt else report(dropped)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGALRM, former)
        sys.unraisablehook = report


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.setitimer(signal.ITIMER_REAL, _DELAY, _DELAY)
    raise KeyboardInterrupt


def _again(number: int, frame: FrameType | None) -> None:
    handled: Any = sys.exc_info()[1]
    while handled is not None:
        if isinstance(handled, KeyboardInterrupt):
            return
        handled = handled.__context__
    raise KeyboardInterrupt
