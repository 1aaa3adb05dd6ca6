"""
Trees of tensors and plain values in sealed files: every byte is covered by a checksum, and reading one runs no code.

The files are ordinary safetensors. Their metadata hold the tree without its tensors, a checksum of each tensor, and a
checksum of the metadata themselves.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from art_sensreg.training.checkpoint.codec import pack, unpack
from art_sensreg.utils.files import available_memory, check_regular

# What `safetensors` takes for a header at most.
_LONGEST_HEADER = 100_000_000

# What `load` raises for a damaged file differs from version to version.
DAMAGE = (SafetensorError, ValueError, TypeError, LookupError, RuntimeError, AssertionError, OverflowError)


def to_bytes(tree: Any, kind: str, version: int, **extra: str) -> bytes:
    """
    The content of a sealed file: a tree, as :func:`~art_sensreg.training.checkpoint.codec.pack` takes it, with its
    format (`package-noun`), version and further entries as metadata.
    """
    tensors, text = pack(tree)
    sums = json.dumps({name: _checksum_of(tensor) for name, tensor in tensors.items()})
    metadata = {"format": kind, "version": str(version), **extra, "tree": text, "tensors": sums}
    return _in_order(save(tensors, {**metadata, "checksum": _seal(metadata, tuple(extra))}))


def from_bytes(data: bytes, kind: str, version: int, extra: tuple[str, ...] = ()) -> tuple[Any, dict[str, str]]:
    """
    The tree of a sealed file, its tensors on the CPU, and the further entries of its metadata; every byte is checked.
    ValueError if it is truncated, damaged, of another format or version; or others of `DAMAGE`, from `load`.
    """
    metadata = _checked(header_of(data), kind, version, extra)
    tensors = load(data)
    if {name: _checksum_of(tensor) for name, tensor in tensors.items()} != json.loads(metadata["tensors"]):
        raise ValueError("the checksums of its tensors do not match, so it is damaged")
    return unpack(tensors, metadata["tree"]), {name: metadata[name] for name in extra}


def header_of(data: bytes) -> dict[str, Any]:
    """
    The header of a safetensors file, of which `data` is the beginning; the metadata are its entry `__metadata__`.
    ValueError if there is none.
    """
    end = 8 + int.from_bytes(data[:8], "little")
    if len(data) < max(9, end):
        raise ValueError("it is truncated, or not a safetensors file")
    try:
        header = json.loads(data[8:end].decode())
    except (ValueError, RecursionError) as error:
        raise ValueError("it is damaged, or not a safetensors file") from error
    if not isinstance(header, dict):
        raise ValueError("it is damaged, or not a safetensors file")
    return header


def read_bytes(path: Path) -> bytes:
    """
    Read a whole safetensors file, if it is one: a pipe would never end, a sparse file need not fit into memory. OSError
    if it is not a regular file or cannot be opened, ValueError if its size is not what its header says.
    """
    check_regular(path, links=True)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(size - 8, _LONGEST_HEADER):
            raise ValueError("it is truncated, or not a safetensors file")
        start += file.read(length)
        try:
            ends = [entry["data_offsets"][1] for name, entry in header_of(start).items() if name != "__metadata__"]
            told = 8 + length + max(ends, default=0)
        except DAMAGE as error:
            raise ValueError("it is damaged, or not a safetensors file") from error
        if told != size:
            raise ValueError(f"it has {size} bytes, but its header declares {told}")
        if size > available_memory():
            raise ValueError(f"its {size} bytes are more than this machine's memory")
        file.seek(0)
        return file.read()


def _in_order(data: bytes) -> bytes:
    """The same file with its metadata in order: `save` shuffles them, and equal content is to be equal bytes."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = header_of(data)
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, memoryview(data)[end:]])


def _checksum_of(tensor: torch.Tensor) -> str:
    checksum = hashlib.blake2b(f"{tensor.dtype} {tuple(tensor.shape)} ".encode(), digest_size=16)
    checksum.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return checksum.hexdigest()


def _seal(metadata: dict[str, str], extra: tuple[str, ...]) -> str:
    text = "\n".join(metadata[name] for name in (*extra, "tensors", "tree"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _checked(header: dict[str, Any], kind: str, version: int, extra: tuple[str, ...]) -> dict[str, str]:
    """The metadata, checked before any tensor is read: a newer version may hold tensors unknown to this one."""
    try:
        metadata = header["__metadata__"]
        origin, came = metadata["format"], metadata["version"]
    except (LookupError, TypeError) as error:
        package, noun = kind.split("-")
        raise ValueError(f"it is damaged, or not a {noun} of {package}") from error
    if origin != kind:
        raise ValueError(f"its format is {origin!r}; expected {kind!r}")
    if came != str(version):
        raise ValueError(f"its version is {came!r}, of a newer art_sensreg or damaged; expected {str(version)!r}")
    names = {"format", "version", "tree", "tensors", "checksum", *extra}
    if set(metadata) != names or metadata["checksum"] != _seal(metadata, extra):
        raise ValueError("the checksum of its metadata does not match, so it is damaged")
    return dict(metadata)
