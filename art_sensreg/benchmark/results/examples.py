"""The first test images of a run before and after an attack, in `examples/*.npz`, for the page to show."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from art_sensreg.benchmark.config.threat_models import NORMS
from art_sensreg.benchmark.results.entries import EXAMPLES_NAME
from art_sensreg.utils.files import atomic_write, read_regular
from art_sensreg.utils.npz import read_npz
from art_sensreg.utils.text import one_line

# Of six large colour images.
_LIMIT = 2**25
_ARRAYS = ("x", "x_adv", "y", "logits", "threat")


@dataclass(frozen=True, kw_only=True)
class Examples:
    """
    Images before and after an attack.

    :param norm: Norm of the perturbations.
    :param eps: Their size.
    :param steps: Steps of the attack, PGD from one random start.
    :param x: Images `(n, C, H, W)` in [0, 1].
    :param x_adv: The attacked images.
    :param y: Class indices `(n,)`.
    :param logits: Outputs for both, `(2, n, classes)`.
    """

    norm: str
    eps: float
    steps: int
    x: np.ndarray
    x_adv: np.ndarray
    y: np.ndarray
    logits: np.ndarray


def write_examples(out: Path, name: str, examples: Examples) -> None:
    """Store examples in a file below the output folder."""
    (out / "examples").mkdir(exist_ok=True)
    threat = np.array([list(NORMS).index(examples.norm), examples.eps, examples.steps], dtype=np.float64)
    arrays = {entry: getattr(examples, entry) for entry in _ARRAYS if entry != "threat"}
    file = io.BytesIO()
    np.savez_compressed(file, threat=threat, **arrays)
    atomic_write(out / name, file.getvalue())


def read_examples(out: Path, name: str) -> Examples:
    """
    Read the examples of a run.

    OSError if it is not a regular file, ValueError if the name leads out of the folder or the file does not hold them.
    """
    if not EXAMPLES_NAME.fullmatch(name):
        raise ValueError(f"{one_line(name)!r} is not a file in examples/")
    arrays = read_npz(io.BytesIO(read_regular(out / name, _LIMIT)), name, keys=_ARRAYS)
    x, x_adv, y, logits, threat = (arrays[entry] for entry in _ARRAYS)
    fits = x.ndim == 4 and x.shape == x_adv.shape and y.shape == (len(x),) and logits.shape[:2] == (2, len(x))
    numbers = all(array.dtype.kind in "fiu" for array in arrays.values()) and logits.ndim == 3
    if not (fits and numbers and threat.shape == (3,) and int(threat[0]) in range(len(NORMS))):
        raise ValueError(f"{name} does not hold images before and after an attack")
    norm = list(NORMS)[int(threat[0])]
    return Examples(norm=norm, eps=float(threat[1]), steps=int(threat[2]), x=x, x_adv=x_adv, y=y, logits=logits)
