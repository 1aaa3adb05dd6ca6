"""Untrusted files: only regular files of acceptable size are opened, and none is lost."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

# Without these a pipe would be waited for, and a link followed to wherever it leads; not every system has them.
_SAFELY = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)


def read_regular(path: Path, limit: int) -> bytes:
    """The content of a file, if it is a regular one (`OSError` otherwise) of at most `limit` bytes (`ValueError`)."""
    check_regular(path)
    descriptor = os.open(path, os.O_RDONLY | _SAFELY)
    with open(descriptor, "rb") as file:  # what was opened counts, not what lay there before
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, f"{path.name} is a {_kind(found.st_mode)}; expected a regular file")
        if found.st_size > limit:
            raise ValueError(f"{path.name} has {found.st_size} bytes; expected {limit} at most")
        return file.read(limit)


def check_regular(path: Path, links: bool = False) -> None:
    """
    Refuse what is not a regular file, before something else opens it.

    An `OSError` of its kind: `FileNotFoundError`, `IsADirectoryError`, else for a pipe, a device or, without `links`, a
    symbolic link.
    """
    mode = os.stat(path, follow_symlinks=links).st_mode
    if not stat.S_ISREG(mode):
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(number, f"{path.name} is a {_kind(mode)}; expected a regular file")


def atomic_write(path: Path, data: bytes) -> None:
    """
    Write a file under another name, flush it to the disk and rename it: an interruption leaves the former file.

    Only a regular file is replaced, and no link is followed: `FileExistsError` otherwise.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise FileExistsError(errno.EEXIST, f"{str(path)!r} is not a regular file; expected one, or nothing there")
    part = path.with_name(f"{path.name}.part")
    try:
        part.unlink(missing_ok=True)  # left by a process that was killed; or a link, which must not be followed
        with open(part, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    with suppress(OSError):  # not every system can open folders, and the file itself is on the disk
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def usable_folder(name: str, folder: Path) -> Path:
    """Make a folder, with its parents, and prove that files can be written into it; `name` is that of the error."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        reason = "it is a file, or lies below one; expected a folder"
        raise OSError(f"`{name}` {folder} cannot be written into: {reason}") from None
    except OSError as error:
        raise OSError(f"`{name}` {folder} cannot be written into: {error.strerror or error}") from None
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-") as file:  # its own, beside other processes
            file.write(b"probe")
    except OSError as error:
        raise OSError(f"`{name}` {folder} cannot be written into: {error.strerror or error}") from None
    return folder


def available_memory() -> int:
    """Bytes of memory that this machine has; 2**63 where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**63


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISLNK, "symbolic link"), (stat.S_ISDIR, "folder"), (stat.S_ISFIFO, "pipe"))
    return next((kind for test, kind in kinds if test(mode)), "device or socket")
