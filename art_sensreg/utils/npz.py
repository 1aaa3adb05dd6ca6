"""Archives of numpy arrays from untrusted sources: no pickle, and no more memory than the file is checked to need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile, ZipFile, ZipInfo

import numpy as np

from art_sensreg.utils.files import available_memory, check_regular
from art_sensreg.utils.text import one_line

# What expands by more than this factor, and to more than that many bytes, is meant to fill the memory.
_EXPANSION, _LARGE = 100, 2**30
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npz(source: Path | IO[bytes], name: str, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """
    The arrays `keys` of an `.npz` file, of which a symbolic link is followed.

    A `ValueError` of one line, with `name`, if it is no such file, is damaged, lacks one of them, holds Python objects,
    or needs more memory than there is.
    """
    try:
        if isinstance(source, Path):
            check_regular(source, links=True)
        with ZipFile(source) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            missing = [key for key in keys if key not in members]
            if missing:
                found = ", ".join(members) or "nothing"
                raise ValueError(f"it has no {', '.join(missing)} (it has {found}); expected {', '.join(keys)}")
            _check_memory([members[key] for key in keys])
            for key in keys:
                _check_header(archive, members[key], key)
            arrays = {}
            for key in keys:
                with archive.open(members[key]) as file:
                    arrays[key] = np.lib.format.read_array(file, allow_pickle=False)
            return arrays
    except BadZipFile as error:
        raise ValueError(f"{name} cannot be used: it is not an archive, or damaged ({error}).") from error
    except Exception as error:  # a file may be damaged in any way
        reason = one_line(error) or type(error).__name__
        raise ValueError(f"{name} cannot be used: {reason[:500]}.") from error


def _check_memory(members: list[ZipInfo]) -> None:
    total, packed = (sum(getattr(info, size) for info in members) for size in ("file_size", "compress_size"))
    # Images of one byte each are kept, and converted to float32.
    if 5 * total > available_memory():
        raise ValueError(f"its arrays have {total} bytes, for which this machine's memory is too small")
    if total > _LARGE and total > _EXPANSION * packed:
        raise ValueError(f"its {packed} bytes expand to {total}, more than {_EXPANSION} times as many")


def _check_header(archive: ZipFile, info: ZipInfo, key: str) -> None:
    """Compare what an array says of itself with what there is, before any memory is taken for it."""
    with archive.open(info) as file:
        version: Any = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"`{key}` has the unknown format version {version}")
        shape, _, dtype = _HEADERS[version](file)
        if dtype.hasobject:
            raise ValueError(f"`{key}` holds Python objects; expected an array of numbers")
        declared, actual = math.prod(shape) * dtype.itemsize, info.file_size - file.tell()
        if min(shape, default=0) < 0 or declared != actual:
            raise ValueError(f"`{key}` is damaged: its header declares {declared} bytes, and there are {actual}")
