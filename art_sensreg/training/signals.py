"""SIGTERM and Ctrl-C while training: the step is finished and a checkpoint written first."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class StopRequest:
    """
    Context manager that turns SIGTERM and SIGINT into a request, so that the step is finished and a checkpoint written.

    A second signal acts at once. Outside of the main thread signals are left alone.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._former: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) != signal.SIG_IGN:  # a job in the background of a shell
                    self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: Any, *exc: Any) -> None:
        for number in list(self._former):
            self._put_back(number)
        if kind is None:
            self.obey()  # it came after the last step

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._put_back(number)

    def _put_back(self, number: int) -> None:
        former = self._former.pop(number, None)
        if former is not None:
            signal.signal(number, former)

    def obey(self, default: int | None = None) -> None:
        """Do now what the signal would have done; without one, what `default` (of another process) would do."""
        number, self.signal = self.signal or default, None
        if number is None:
            return
        self._put_back(number)
        signal.raise_signal(number)
        raise SystemExit(128 + number)  # a handler of the user's own has returned
