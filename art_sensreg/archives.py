"""
MNIST and CIFAR-10 as published: read from ART's data folder, or downloaded into it, and verified before use.

ART's own loaders unpickle whatever is in that folder, which is below /tmp if the home folder is not writable, and
download without checking certificates. Here a file is used only if its checksum matches the published one, and the
pickles of CIFAR-10 may contain only numpy arrays.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tarfile
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from art import config

from art_sensreg.utils.files import atomic_write, read_regular
from art_sensreg.utils.npz import read_npz
from art_sensreg.utils.text import error_text

Arrays = dict[str, np.ndarray]
KEYS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True, kw_only=True)
class Archive:
    """
    A published file.

    :param names: Its names in the data folder; the first is used for downloads.
    :param url: Where it is published.
    :param digests: The published checksums by algorithm; one match is enough.
    :param limit: The most bytes it may have.
    """

    names: tuple[str, ...]
    url: str
    digests: Mapping[str, str]
    limit: int


ARCHIVES = {
    "mnist": Archive(
        names=("mnist.npz",),
        url="https://s3.amazonaws.com/img-datasets/mnist.npz",
        digests={
            "sha256": "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
            "md5": "8a61469f7ea1b51cbae51d4f78837e45",
        },
        limit=20_000_000,
    ),
    "cifar10": Archive(
        names=("cifar-10-batches-py.tar.gz", "cifar-10-python.tar.gz"),  # ART's name, and the published one
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        digests={
            "sha256": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            "md5": "c58f30108f718f92721af3b95e74349a",
        },
        limit=200_000_000,
    ),
}
# The parts of CIFAR-10 and their published MD5.
BATCHES = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
_BATCH_FOLDER, _BATCH_LIMIT = "cifar-10-batches-py", 50_000_000
_INSTEAD = "or give a folder with {name}.npz as `--data-dir`"


def data_folder() -> Path:
    """ART's data folder."""
    return Path(config.ART_DATA_PATH)


def load_archive(name: str) -> Arrays:
    """
    The arrays of `mnist` or `cifar10`, as published.

    `ValueError` if a file is not the published one, or if others can write to the folder.
    """
    folder, archive = data_folder(), ARCHIVES[name]
    instead = _INSTEAD.format(name=name)
    check_private(folder, instead)
    unpacked = folder / _BATCH_FOLDER
    present = next((folder / file for file in archive.names if os.path.lexists(folder / file)), None)
    if present is None and name == "cifar10" and unpacked.is_dir():
        check_private(unpacked, instead)
        return read_batches({part: read_regular(unpacked / part, _BATCH_LIMIT) for part in BATCHES})
    data = _downloaded(archive, folder, instead) if present is None else read_regular(present, archive.limit)
    if not _as_published(data, archive.digests):
        where = archive.url if present is None else present
        raise ValueError(f"{where} is not the published file (its checksum differs): delete it, {instead}")
    if name == "cifar10":
        return read_batches(_unpacked(data))
    return read_npz(io.BytesIO(data), f"`dataset`: {archive.names[0]}", KEYS)


def check_private(folder: Path, instead: str) -> None:
    """Refuse a folder (which may be missing) that others can write to or replace; `instead` suggests an alternative."""
    if not hasattr(os, "getuid"):
        return  # permission bits have no meaning there
    path, inner = folder.absolute(), None
    for place in (path, *path.parents):
        try:
            found = os.stat(place)
        except FileNotFoundError:
            continue
        # The user's own group, which many systems create, has no other members.
        group = found.st_mode & 0o020 and found.st_gid not in (0, os.getgid())
        others, sticky = found.st_mode & 0o002 or group, found.st_mode & 0o1000
        owned = found.st_uid in (0, os.getuid())
        # In a sticky folder such as /tmp nobody else can replace what exists and belongs to the user.
        kept = sticky and inner is not None and inner.st_uid in (0, os.getuid())
        if not owned or (others and not kept):
            raise ValueError(
                f"the data folder {folder} is not used: others can write into {place}. Make it private "
                f"(chmod go-w), set `art.config.set_data_path` to a folder of your own, {instead}"
            )
        inner = found


def read_batches(files: Mapping[str, bytes], digests: Mapping[str, str] = BATCHES) -> Arrays:
    """
    The arrays of CIFAR-10 from the content of its parts by name, and their MD5; the last part contains the test images.

    `ValueError` if a part is missing, is not the published one, or contains anything but arrays.
    """
    parts = []
    for name, digest in digests.items():
        if name not in files or not _as_published(files[name], {"md5": digest}):
            raise ValueError(f"CIFAR-10: {name} is missing or not the published one (its checksum differs)")
        parts.append(_batch(name, files[name]))
    (x_train, y_train), (x_test, y_test) = map(_joined, (parts[:-1], parts[-1:]))
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


class _ArraysOnly(pickle.Unpickler):
    """Unpickles only numpy arrays and builtin values: numbers, text, lists, dictionaries."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.zeros(0).__reduce__()[0]  # wherever this numpy has it
        if (module, name) == ("_codecs", "encode"):
            return _latin1  # how Python 3 writes bytes for Python 2
        raise pickle.UnpicklingError(f"it names {module}.{name}; expected arrays of numpy only")


def _latin1(text: str, encoding: str) -> bytes:
    return text.encode("latin1")


def _batch(name: str, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    try:
        content = _ArraysOnly(io.BytesIO(data), encoding="bytes").load()
        images, labels = content[b"data"], np.asarray(content[b"labels"])
        images = images.reshape(-1, 3, 32, 32)
        if images.dtype != np.uint8 or labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
            raise ValueError(f"images of {images.dtype}, labels of {labels.dtype} {labels.shape}")
    except Exception as error:  # a pickle may be damaged in any way
        raise ValueError(f"CIFAR-10: {name} cannot be read: {error_text(error)}") from error
    return images, labels.astype(np.int64)


def _joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])


def _unpacked(data: bytes) -> dict[str, bytes]:
    """The parts of CIFAR-10, in memory, from the archive, which has been verified already."""
    files = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        for member in archive:
            part = archive.extractfile(member) if Path(member.name).name in BATCHES else None
            if part is not None:
                files[Path(member.name).name] = part.read(_BATCH_LIMIT)
    return files


def _as_published(data: bytes, digests: Mapping[str, str]) -> bool:
    return any(hashlib.new(kind, data, usedforsecurity=False).hexdigest() == digest for kind, digest in digests.items())


def _downloaded(archive: Archive, folder: Path, instead: str) -> bytes:
    """Download a file; it is kept only if it is the published one."""
    try:
        with urllib.request.urlopen(archive.url, timeout=60) as answer:
            data: bytes = answer.read(archive.limit + 1)
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or error
        raise OSError(error.errno, f"{archive.url} cannot be downloaded ({reason}): try again, {instead}") from error
    if _as_published(data, archive.digests):
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / archive.names[0], data)
    return data
