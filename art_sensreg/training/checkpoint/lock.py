"""A lock on a folder that ends with the process that holds it, however that ends."""

from __future__ import annotations

import errno
import logging
import os
import socket
import threading
import weakref
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
    import msvcrt

logger = logging.getLogger(__name__)

_NAME = ".lock"
# A link or a pipe of that name is no lock: neither is it followed nor waited for.
_FLAGS = os.O_RDWR | os.O_CREAT
for _flag in ("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK"):
    _FLAGS |= getattr(os, _flag, 0)
_BUSY = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}

_held: weakref.WeakSet[FolderLock] = weakref.WeakSet()
_guard = threading.Lock()


class FolderLock:
    """
    Keeps other processes, and other threads of this one, out of an existing folder.

    The system holds the lock for the process, in a file `.lock`: a process that is killed leaves the file, but the lock
    is free. Where a file system does not support locks, other threads are still kept out, other processes are not, and
    a warning says so.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / _NAME
        self._file: int | None = None
        self._folder: tuple[int, int] | None = None

    def acquire(self) -> bool:
        """Take the lock if it is free, and tell whether it was; OSError if its file cannot be made."""
        stat = os.stat(self.path.parent)
        key = (stat.st_dev, stat.st_ino)
        with _guard:
            if any(lock._folder == key for lock in _held):
                return False
            while True:
                file = os.open(self.path, _FLAGS, 0o666)
                if not _lock(file, self.path):
                    os.close(file)
                    return False
                if _is_at(file, self.path):
                    break
                os.close(file)  # its former holder has just removed it
            with suppress(OSError):
                os.ftruncate(file, 0)
                os.write(file, f"\0process {os.getpid()} of {socket.gethostname()}".encode())
            self._file, self._folder = file, key
            _held.add(self)
            return True

    def release(self) -> None:
        """Free the lock; its file is removed. Nothing happens if it is not held."""
        with _guard:
            if self._file is not None:
                with suppress(OSError):  # Windows removes no open file
                    self.path.unlink()
                self._forget()

    def holder(self) -> str:
        """Who has the lock, for an error message: " (process 17 of host)", or nothing if it is not known."""
        with suppress(OSError):
            text = self.path.read_bytes()[1:200].decode(errors="replace")
            if text.isprintable() and text:
                return f" ({text})"
        return ""

    def _forget(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                os.close(self._file)
        self._file, self._folder = None, None
        _held.discard(self)


def _lock(file: int, path: Path) -> bool:
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    except OSError as error:
        if error.errno in _BUSY:
            return False
        logger.warning(
            "%r cannot be locked (%s): nothing keeps another process from writing there too.",
            str(path.parent), error.strerror or error,
        )  # fmt: skip
    return True


def _is_at(file: int, path: Path) -> bool:
    with suppress(OSError):
        own, there = os.fstat(file), os.stat(path)
        return (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino)
    return False


def _after_fork() -> None:
    """A forked child, a worker of a loader for one, must not keep the lock of a parent that was killed."""
    global _guard
    _guard = threading.Lock()
    for lock in list(_held):
        lock._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
