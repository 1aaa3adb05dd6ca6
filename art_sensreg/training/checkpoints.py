"""Checkpoints in files: any tree of tensors and plain values under a number of steps. Reading one runs no code."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from art_sensreg.training.packing import pack, unpack
from art_sensreg.utils import check_count

logger = logging.getLogger(__name__)

FORMAT, VERSION = "art_sensreg-checkpoint", 1
_NAME = re.compile(r"checkpoint-([0-9]{9}|[1-9][0-9]{9,})\.safetensors")
_PARTS = "checkpoint-*.safetensors.part"
_METADATA = {"format", "version", "step", "tree", "tensors", "checksum"}


def write_checkpoint(folder: Path, step: int, tree: Any, keep: int) -> Path:
    """
    Write one checkpoint: aside first, then renamed. Then remove all but the newest `keep` up to this step; those of
    later steps (of a run that went on from an earlier one) stay, so that the new one is never the one removed.

    :param folder: An existing folder.
    :param step: Number of steps, at least 0.
    :param tree: See :func:`~art_sensreg.training.packing.pack`.
    :param keep: How many checkpoints to keep, at least 1.
    :return: The file.
    :raises TypeError: If the tree holds what cannot be stored.
    :raises OSError: If it cannot be written; of the class and number of the cause. Older checkpoints stay.

    Example:
    >>> import tempfile
    >>> from art_sensreg.training.checkpoints import write_checkpoint
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_checkpoint(Path(folder), 500, {"weight": torch.ones(2)}, keep=2).name
    'checkpoint-000000500.safetensors'
    """
    check_count("step", step, minimum=0)
    check_count("keep", keep)
    data = _to_bytes(step, tree)
    target = folder / f"checkpoint-{step:09d}.safetensors"
    try:
        _remove(folder.glob(_PARTS))  # first, as they may be what fills the disk
        _write_aside(target, data)
    except OSError as error:
        raise _not_written(error, folder, step) from error
    _remove(_up_to(folder, step)[keep:])
    return target


def check_folder(folder: str | Path) -> Path:
    """
    Make a folder for checkpoints, with its parents, and prove that files can be written into it.

    :param folder: The folder.
    :return: The folder as a path.
    :raises NotADirectoryError: If it, or a parent of it, is a file.
    :raises OSError: If it cannot be made or written into; of the class and number of the cause.

    Example:
    >>> import tempfile
    >>> from art_sensreg.training.checkpoints import check_folder
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     check_folder(f"{folder}/runs/first").name
    'first'
    """
    folder = Path(folder)
    probe = folder / "checkpoint-probe.safetensors.part"  # a name that write_checkpoint would clear away
    try:
        folder.mkdir(parents=True, exist_ok=True)
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
    return folder


def list_checkpoints(folder: Path) -> list[Path]:
    """
    List the checkpoints in a folder; other files in it are ignored.

    :param folder: The folder; it may be missing.
    :return: The files, newest (most steps) first.

    Example:
    >>> from art_sensreg.training.checkpoints import list_checkpoints
    >>> list_checkpoints(Path("no such folder"))
    []
    """
    if not folder.exists():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=_step_of, reverse=True)


def read_checkpoint(path: Path) -> tuple[int, Any]:
    """
    Read one checkpoint; every byte of it is checked.

    :param path: The file.
    :return: The number of steps and the tree, its tensors on the CPU.
    :raises OSError: If there is no such file, or it cannot be opened.
    :raises ValueError: If the file is truncated, damaged, of another format or of a newer version.

    Example:
    >>> import tempfile
    >>> from art_sensreg.training.checkpoints import read_checkpoint, write_checkpoint
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     read_checkpoint(write_checkpoint(Path(folder), 500, {"weight": torch.ones(2)}, keep=2))
    (500, {'weight': tensor([1., 1.])})
    """
    data = path.read_bytes()
    try:
        metadata = _read_metadata(data)
        tensors = load(data)
        if {name: _checksum_of(tensor) for name, tensor in tensors.items()} != json.loads(metadata["tensors"]):
            raise ValueError("the checksums of its tensors are others, so it is damaged")
        return int(metadata["step"]), unpack(tensors, metadata["tree"])
    # What `load` raises for a damaged file differs from version to version.
    except (SafetensorError, ValueError, TypeError, LookupError, RuntimeError, AssertionError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as a checkpoint: {error or type(error).__name__}") from error


def read_newest(folder: Path) -> tuple[Path, Any] | None:
    """
    Read the newest checkpoint that can be read; a warning is logged for each newer one that cannot.

    :param folder: The folder; it may be missing.
    :return: The file and its tree, or None if there is no checkpoint.
    :raises ValueError: If there are checkpoints, and none of them can be read.

    Example:
    >>> import tempfile
    >>> from art_sensreg.training.checkpoints import read_newest, write_checkpoint
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     files = [write_checkpoint(Path(folder), step, {"loss": 1 / step}, keep=2) for step in (1, 2)]
    ...     read_newest(Path(folder))[1]
    {'loss': 0.5}
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


def _to_bytes(step: int, tree: Any) -> bytes:
    tensors, text = pack(tree)
    sums = json.dumps({name: _checksum_of(tensor) for name, tensor in tensors.items()})
    metadata = {"format": FORMAT, "version": str(VERSION), "step": str(step), "tree": text, "tensors": sums}
    return bytes(save(tensors, {**metadata, "checksum": _seal(metadata)}))


def _checksum_of(tensor: torch.Tensor) -> str:
    checksum = hashlib.blake2b(f"{tensor.dtype} {tuple(tensor.shape)} ".encode(), digest_size=16)
    checksum.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return checksum.hexdigest()


def _seal(metadata: dict[str, str]) -> str:
    text = "\n".join(metadata[name] for name in ("step", "tensors", "tree"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _read_metadata(data: bytes) -> dict[str, str]:
    """Read and check the metadata, before any tensor: a newer version may hold tensors unknown to this one."""
    end = 8 + int.from_bytes(data[:8], "little")
    if len(data) < max(8, end):
        raise ValueError("it is truncated, or no file of safetensors")
    try:
        metadata = json.loads(data[8:end].decode())["__metadata__"]
        origin, version = metadata["format"], metadata["version"]
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError("it is damaged, or no checkpoint of art_sensreg") from error
    if origin != FORMAT:
        raise ValueError(f"its format is {origin!r}; expected {FORMAT!r}")
    if version != str(VERSION):
        raise ValueError(f"its version is {version!r}, of a newer art_sensreg or damaged; expected {str(VERSION)!r}")
    if set(metadata) != _METADATA or metadata["checksum"] != _seal(metadata):
        raise ValueError("the checksum of its metadata is another, so it is damaged")
    return dict(metadata)


def _write_aside(target: Path, data: bytes) -> None:
    part = target.with_name(f"{target.name}.part")
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    with suppress(OSError):  # not every system can open folders, and the file itself is on the disk
        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


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
