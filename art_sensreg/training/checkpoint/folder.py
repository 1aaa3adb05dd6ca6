"""Checkpoints in files: any tree of tensors and plain values under a number of steps. Reading one runs no code."""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
from collections.abc import Iterable
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

from art_sensreg.training.checkpoint.files import DAMAGE, from_bytes, read_bytes, to_bytes
from art_sensreg.utils import check_count
from art_sensreg.utils.files import atomic_write

logger = logging.getLogger(__name__)

FORMAT, VERSION = "art_sensreg-checkpoint", 1
_NAME = re.compile(r"checkpoint-([0-9]{9}|[1-9][0-9]{9,})\.safetensors")
_PARTS = "checkpoint-*.safetensors.part"


def write_checkpoint(folder: Path, step: int, tree: Any, keep: int) -> Path:
    """
    Write a tree (see :func:`~art_sensreg.training.checkpoint.codec.pack`) as one checkpoint: aside first, then renamed.
    Then remove all but the newest `keep` up to this step; those of later steps (of a run that went on from an earlier
    one) stay, so that the new one is never removed.

    TypeError if the tree holds something that cannot be stored; OSError, of the class and number of the cause, if it
    cannot be written: older checkpoints stay.
    """
    check_count("step", step, minimum=0)
    check_count("keep", keep)
    data = to_bytes(tree, FORMAT, VERSION, step=str(step))
    target = folder / f"checkpoint-{step:09d}.safetensors"
    try:
        _remove(folder.glob(_PARTS))  # first, as they may be what fills the disk
        atomic_write(target, data)
    except OSError as error:
        raise _not_written(error, folder, step) from error
    _remove(_up_to(folder, step)[keep:])
    return target


def check_folder(folder: str | Path) -> Path:
    """
    Make a folder for checkpoints, with its parents, and prove that files can be written into it. An OSError is of the
    class and number of the cause (NotADirectoryError if a file is in the way); one too if a link, a pipe or a folder
    has the name of a checkpoint.
    """
    folder = Path(folder)
    probe = folder / "checkpoint-probe.safetensors.part"  # a name that write_checkpoint would clear away
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            probe.unlink()  # a link would be followed, a pipe waited for
        probe.write_bytes(b"probe")
        probe.unlink()
    except (FileExistsError, NotADirectoryError) as error:
        message = f"`checkpoint_dir` is {str(folder)!r}, which is a file or lies below one; expected a folder."
        raise NotADirectoryError(errno.ENOTDIR, message) from error
    except OSError as error:
        with suppress(OSError):
            probe.unlink()
        message = f"`checkpoint_dir` is {str(folder)!r}, where no file can be written ({error.strerror or error})."
        raise type(error)(error.errno, message) from error
    for path in list_checkpoints(folder):
        if not stat.S_ISREG(os.lstat(path).st_mode):
            message = f"`checkpoint_dir` holds {path.name}, which is not a regular file (but a link, say): remove it."
            raise FileExistsError(errno.EEXIST, message)
    return folder


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, newest (most steps) first; other files are ignored, and it may be missing."""
    if not folder.exists():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=_step_of, reverse=True)


def read_checkpoint(path: Path) -> tuple[int, Any]:
    """
    The number of steps and the tree of a checkpoint, its tensors on the CPU; every byte is checked. OSError if it is no
    regular file or cannot be opened; ValueError if it is truncated, damaged, of another format or of a newer version.
    """
    try:
        tree, metadata = from_bytes(read_bytes(path), FORMAT, VERSION, ("step",))
        return int(metadata["step"]), tree
    except DAMAGE as error:
        raise ValueError(f"{str(path)!r} cannot be read as a checkpoint: {error or type(error).__name__}") from error


def read_newest(folder: Path) -> tuple[Path, Any] | None:
    """
    The newest checkpoint that can be read and its tree, or None if there is none; ValueError if there are some, but
    none can be read. A warning is logged for each newer one that cannot be read.
    """
    reasons = []
    paths = list_checkpoints(folder)
    for path, before in zip_longest(paths, paths[1:]):
        try:
            return path, read_checkpoint(path)[1]
        except (OSError, ValueError) as error:
            reasons.append(str(error))
            then = f"the one before it, {before.name}, is used" if before else "there is none before it"
            logger.warning("%s; %s.", error, then)
    if reasons:
        raise ValueError(f"No checkpoint in {str(folder)!r} can be read: {'; '.join(reasons)}.")
    return None


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:  # no reason to end a training run
            logger.warning("%r could not be removed: %s.", str(path), error.strerror or error)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("checkpoint-").removesuffix(".safetensors"))


def _up_to(folder: Path, step: int) -> list[Path]:
    return [path for path in list_checkpoints(folder) if _step_of(path) <= step]


def _not_written(error: OSError, folder: Path, step: int) -> OSError:
    earlier = []
    with suppress(OSError):
        earlier = _up_to(folder, step)
    last = f"the last good one is {earlier[0].name}" if earlier else "there is none"
    failed = f"The checkpoint of step {step} could not be written into {str(folder)!r} ({error.strerror or error})"
    return type(error)(error.errno, f"{failed}; {last}.")
