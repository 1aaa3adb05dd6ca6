"""Files that others may have put there: only regular ones are opened, of a size that fits, and none is overwritten."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

# Without these a pipe would be waited for, and a link followed to wherever it leads; not every system has them.
_SAFELY = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


def read_regular(path: Path, limit: int, links: bool = False) -> bytes:
    """
    Read a whole file, if it is one and not too large.

    :param path: The file.
    :param limit: Most bytes that are read.
    :param links: Whether a symbolic link is followed: for a path that the user has named, not for what lies around.
    :return: Its content.
    :raises OSError: If there is none, it cannot be read, or it is a pipe, device, folder or (without `links`) a link.
    :raises ValueError: If it is larger.

    Example:
    >>> import tempfile
    >>> from art_sensreg.utils.files import read_regular
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     os.mkfifo(f"{folder}/pipe")
    ...     read_regular(Path(folder, "pipe"), limit=100)
    Traceback (most recent call last):
    OSError: [Errno 22] pipe is a pipe; expected a regular file
    """
    check_regular(path, links)
    descriptor = os.open(path, os.O_RDONLY | _SAFELY | (0 if links else _NO_LINK))
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

    :param path: The file.
    :param links: Whether a symbolic link is followed.
    :raises OSError: If nothing is there (`FileNotFoundError`), a folder (`IsADirectoryError`), a pipe, a device or,
        without `links`, a symbolic link.
    """
    mode = os.stat(path, follow_symlinks=links).st_mode
    if not stat.S_ISREG(mode):
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(number, f"{path.name} is a {_kind(mode)}; expected a regular file")


def atomic_write(path: Path, data: bytes) -> None:
    """
    Write a file under another name, bring it to the disk and rename it: an interruption leaves the former file.

    :param path: The file. Only a regular one is replaced; no link is followed.
    :param data: Its content.
    :raises OSError: If it cannot be written, or something else lies there (`FileExistsError`).

    Example:
    >>> import tempfile
    >>> from art_sensreg.utils.files import atomic_write
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     atomic_write(Path(folder, "table.csv"), b"a,b")
    ...     Path(folder, "table.csv").read_bytes()
    b'a,b'
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise FileExistsError(errno.EEXIST, f"{str(path)!r} is no regular file; expected one, or nothing there")
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
    """
    Make a folder, with its parents, and prove that files can be written into it.

    :param name: What the user calls it, for the error.
    :param folder: The folder.
    :return: The folder.
    :raises OSError: If it cannot be made or written into; one line.

    Example:
    >>> import tempfile
    >>> from art_sensreg.utils.files import usable_folder
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     usable_folder("--out", Path(folder, "run")).name
    'run'
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / ".probe", b"probe")
        (folder / ".probe").unlink()
    except OSError as error:
        below = isinstance(error, (FileExistsError, NotADirectoryError))
        reason = "it is a file, or lies below one; expected a folder" if below else error.strerror or error
        raise OSError(f"`{name}` {folder} cannot be written into: {reason}") from None
    return folder


def available_memory() -> int:
    """The bytes of memory that this machine has; without an answer, a great many."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**63


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISLNK, "symbolic link"), (stat.S_ISDIR, "folder"), (stat.S_ISFIFO, "pipe"))
    return next((kind for test, kind in kinds if test(mode)), "device or socket")
