"""The outcome of an attack image by image, in `masks/*.npz`, and the worst case over all attacks."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from art_sensreg.benchmark.config.threat_models import Threats
from art_sensreg.benchmark.results.entries import MASK_NAME, AttackRecord, UnionCase, WorstCase, share_of
from art_sensreg.benchmark.results.records import RunRecord
from art_sensreg.utils.files import atomic_write, read_regular
from art_sensreg.utils.npz import read_npz
from art_sensreg.utils.text import one_line

# Of a mask of a million images.
_LIMIT = 2**24
# Whether each image is still classified correctly after the attack and those before it, and whether it was attacked.
Outcome = tuple[np.ndarray, np.ndarray]


def mask_name(*parts: object) -> str:
    """
    Where the outcome of an attack is stored.

    Example:
    >>> from art_sensreg.benchmark.results.masks import mask_name
    >>> mask_name("sr+jr", "seed0", "pgd", "linf", 0.1)
    'masks/sr+jr-seed0-pgd-linf-0.1.npz'
    """
    return f"masks/{'-'.join(re.sub(r'[^A-Za-z0-9.+_-]', '_', str(part)) for part in parts)}.npz"


def write_mask(out: Path, name: str, robust: np.ndarray, attacked: np.ndarray, seen: np.ndarray | None = None) -> None:
    """
    Store the outcome of an attack in a file below the output folder. `robust`: whether the image is still classified
    correctly after this attack and those before it, `(n,)`; `attacked`: whether it belongs to the attacked part, what
    accuracies are shares of; `seen`: whether this attack worked on it, because it was not lost before (None: the
    attacked).
    """
    file = io.BytesIO()
    np.savez_compressed(file, robust=robust, attacked=attacked, seen=attacked if seen is None else seen)
    atomic_write(out / name, file.getvalue())


def read_mask(out: Path, name: str) -> Outcome:
    """
    Read the outcome of an attack: the `robust` and the `attacked` array, `(n,)`. OSError if it is not a regular file,
    ValueError if the name leads out of the folder or the file is damaged.
    """
    if not isinstance(name, str) or not MASK_NAME.fullmatch(name):
        raise ValueError(f"{one_line(name)!r} is not a file in masks/")
    arrays = read_npz(io.BytesIO(read_regular(out / name, _LIMIT)), name, keys=("robust", "attacked"))
    robust, attacked = arrays["robust"], arrays["attacked"]
    if robust.dtype != bool or attacked.dtype != bool or robust.ndim != 1 or robust.shape != attacked.shape:
        raise ValueError(f"{name} does not hold the outcomes of an attack")
    return robust, attacked


def has_mask(out: Path, name: str | None, n: int | None = None) -> bool:
    """Whether the outcome of an attack can be read; with `n`, only if it is one of so many images."""
    try:
        return name is not None and n in (None, len(read_mask(out, name)[0]))
    except (OSError, ValueError):
        return False


def joint_outcome(out: Path, attacks: Iterable[AttackRecord], threat: tuple[str, float]) -> Outcome:
    """
    Which images no attack of a size broke, and which were attacked; empty arrays if nothing was. An attack says nothing
    of images that it was not run on.
    """
    found = [
        read_mask(out, attack.mask)
        for attack in attacks
        if attack.threat == threat and attack.mask is not None and has_mask(out, attack.mask)
    ]
    if not found:
        return np.zeros(0, dtype=bool), np.zeros(0, dtype=bool)
    unbroken = [left | ~tried for left, tried in found]
    attacked = np.logical_or.reduce([tried for _, tried in found])
    return np.logical_and.reduce(unbroken) & attacked, attacked


def worst_case(out: Path, run: RunRecord, threat: tuple[str, float], n: int | None = None) -> WorstCase | None:
    """
    The mean over images of the minimum over attacks, of all images or the first `n`; None if nothing was attacked.
    Images that no attack was run on do not count.
    """
    robust, attacked = (mask[:n] for mask in joint_outcome(out, run.attacks, threat))
    return WorstCase(norm=threat[0], eps=threat[1], **share_of(robust[attacked])) if attacked.any() else None


def summarised(out: Path, run: RunRecord, threats: Threats) -> RunRecord:
    """Fill in the worst case of each size, and the union over the norms: of their first sizes, and so on."""
    sizes = [(threat.norm, eps) for threat in threats for eps in threat.eps]
    outcomes = {size: joint_outcome(out, run.attacks, size) for size in sizes}
    union = []
    for group in zip(*(threat.eps for threat in threats), strict=False):
        eps_of = {threat.norm: eps for threat, eps in zip(threats, group, strict=True)}
        parts = [outcomes[size] for size in eps_of.items()]
        if all(attacked.any() for _, attacked in parts):
            everywhere = np.logical_and.reduce([attacked for _, attacked in parts])
            robust = np.logical_and.reduce([robust for robust, _ in parts])
            union.append(UnionCase(eps=eps_of, **share_of(robust[everywhere])))
    cases = [
        WorstCase(norm=norm, eps=eps, **share_of(robust[attacked]))
        for (norm, eps), (robust, attacked) in outcomes.items()
        if attacked.any()
    ]
    return replace(run, worst_case=tuple(cases), union=tuple(union))
