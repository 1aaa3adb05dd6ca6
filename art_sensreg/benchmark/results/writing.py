"""How files of results are written: each aside and renamed, in UTF-8, with what JSON can hold."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from art_sensreg.utils.files import atomic_write
from art_sensreg.utils.text import one_line


def write_text(path: Path, text: str) -> None:
    """
    Write a file aside and rename it.

    :param path: Where to.
    :param text: What.
    :raises OSError: If it cannot be written.
    """
    atomic_write(path, text.encode("utf-8", errors="backslashreplace"))


def save_picture(figure: Any, path: Path) -> None:
    """
    Write a picture aside and rename it.

    :param figure: Figure of matplotlib.
    :param path: PNG file.
    :raises OSError: If it cannot be written.
    """
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    atomic_write(path, file.getvalue())


def plain(value: Any) -> Any:
    """
    What JSON can hold of a value: numbers of numpy as numbers, what is not finite as null, other things as text.

    :param value: Anything.
    :return: Its plain form.

    Example:
    >>> from art_sensreg.benchmark.results.writing import plain
    >>> plain({"a": np.float32(0.5), "b": float("nan"), "c": (np.True_, Path("x"))})
    {'a': 0.5, 'b': None, 'c': [True, 'x']}
    """
    if isinstance(value, dict):
        return {one_line(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, (np.generic, torch.Tensor, np.ndarray)):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, bool, int)) else one_line(value)
