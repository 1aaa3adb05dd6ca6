"""The first test images before and after an attack, as pictures inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from art_sensreg.benchmark.results.examples import Examples, read_examples
from art_sensreg.benchmark.results.merge import Source
from art_sensreg.utils.files import read_regular

# Pixels of a side beyond which a picture is reduced, and pictures of such images.
_SIDE, _FEW = 64, 3
_PICTURE = 2**22


@dataclass(frozen=True, kw_only=True)
class Picture:
    """
    An image with what it is taken for.

    :param source: Its content, as a data URL.
    :param label: For those who do not see it.
    :param caption: What stands below.
    :param wrong: Whether the answer is wrong.
    """

    source: str
    label: str
    caption: str
    wrong: bool = False


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """
    Images of several defences.

    :param attack: What was done to them.
    :param clean: The images themselves with their classes.
    :param attacked: Of each defence the attacked images: what it took them for before and after.
    """

    attack: str
    clean: tuple[Picture, ...]
    attacked: tuple[tuple[str, tuple[Picture, ...]], ...]


def gallery(sources: Sequence[Source]) -> Gallery | None:
    """The images of all defences that have some of the same; None if there are none."""
    found: dict[str, Examples] = {}
    for source in sources:
        for run in source.results.runs:
            if run.examples is not None and run.defence not in found:
                examples = _read(source.folder, run.examples)
                if examples is not None and all(_alike(examples, other) for other in found.values()):
                    found[run.defence] = examples
    if not found:
        return None
    first = next(iter(found.values()))
    n = len(first.x) if max(first.x.shape[2:]) <= _SIDE else _FEW
    clean = tuple(
        Picture(source=_data_url(image), label=f"image {number}, class {label}", caption=f"class {label}")
        for number, (image, label) in enumerate(zip(first.x[:n], first.y, strict=False))
    )
    attack = f"PGD, {first.steps} steps, {first.norm} {first.eps:.4g}"
    attacked = tuple((name, _pictures(examples, n)) for name, examples in found.items())
    return Gallery(attack=attack, clean=clean, attacked=attacked)


def picture_of(path: Path) -> str | None:
    """A PNG file as a data URL, if there is one of at most four megabytes."""
    try:
        return "data:image/png;base64," + base64.b64encode(read_regular(path, _PICTURE)).decode()
    except (OSError, ValueError):
        return None


def _read(folder: Path, name: str) -> Examples | None:
    try:
        return read_examples(folder, name)
    except (OSError, ValueError):  # `results.json` may stand alone
        return None


def _alike(one: Examples, other: Examples) -> bool:
    same = (one.norm, one.eps, one.steps) == (other.norm, other.eps, other.steps)
    few = min(len(one.x), len(other.x))
    return same and one.x.shape[1:] == other.x.shape[1:] and np.array_equal(one.x[:few], other.x[:few])


def _pictures(examples: Examples, n: int) -> tuple[Picture, ...]:
    before, after = examples.logits.argmax(axis=2)
    return tuple(
        Picture(
            source=_data_url(image),
            label=f"image {number} attacked, class {label}, taken for {new}",
            caption=f"{old} → {new}",
            wrong=bool(new != label),
        )
        for number, (image, label, old, new) in enumerate(
            zip(examples.x_adv[:n], examples.y, before, after, strict=False)
        )
    )


def _data_url(image: np.ndarray) -> str:
    """An image `(C, H, W)` in [0, 1] as PNG; of other than one or three channels the first."""
    from PIL import Image

    channels = image if image.shape[0] == 3 else image[:1]
    pixels = np.round(255 * np.clip(np.nan_to_num(channels), 0, 1)).astype(np.uint8)
    picture = Image.fromarray(pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels[0])
    if max(picture.size) > _SIDE:
        picture.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
