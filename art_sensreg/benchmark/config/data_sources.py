"""The data of a run: a data set by name, an `.npz` file, a folder of images, or a function of the user's own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from art_sensreg.archives import KEYS
from art_sensreg.benchmark.config.references import load_object
from art_sensreg.datasets import DATASETS, Dataset, dataset_of, load_dataset
from art_sensreg.utils import shown
from art_sensreg.utils.checks import did_you_mean
from art_sensreg.utils.files import available_memory
from art_sensreg.utils.text import error_text, one_line

FORMS = "an .npz file, a folder of images, FILE.py:FUNCTION or MODULE:FUNCTION"
_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_TEST_FOLDERS = ("test", "val", "validation")
# Of a folder without a part for tests, every fourth image of a class is one, in an order drawn with this seed.
_TEST_EVERY, _SEED = 4, 0


def open_dataset(name: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """
    Load the data of a run.

    :param name: `digits`, `mnist`, `cifar10`; an `.npz` file; a folder with `train/CLASS/*.png` and `test/CLASS/*.png`,
        or `CLASS/*.png` alone, of which a quarter is for testing; or `FILE.py:FUNCTION` or `MODULE:FUNCTION`, which
        returns `x_train, y_train, x_test, y_test`, a dict with these names, or a `Dataset`.
    :param data_dir: As for `load_dataset`.
    :return: The data set.
    :raises ValueError: If there is no such data set, or it cannot be used.
    :raises OSError: If a file cannot be read.
    """
    if name in DATASETS or name.endswith(".npz"):
        return load_dataset(name, data_dir)
    if os.path.isdir(name):
        return _from_folder(Path(name))
    if ":" in name:
        return _from_code(name)
    where = ", which is no folder" if os.sep in name else ""
    hint = did_you_mean(name, DATASETS)
    raise ValueError(f"`dataset` is {name!r}{where}; expected one of {', '.join(DATASETS)}; or {FORMS}{hint}")


def _from_code(name: str) -> Dataset:
    make = load_object("dataset", name)
    if not callable(make):
        raise ValueError(f"`dataset`: {name} is {shown(make)}; expected a function")
    try:
        found = make()
    except Exception as error:  # whatever a user's code raises
        raise ValueError(f"`dataset`: {name} raised {error_text(error)[:300]}") from error
    if isinstance(found, Dataset):
        return dataset_of(found.name, {key: getattr(found, key) for key in KEYS}, name)
    parts = found
    if isinstance(found, (tuple, list)) and len(found) >= 2 and all(_is_pair(part) for part in found[:2]):
        parts = [part for pair in found[:2] for part in pair]  # as Keras and ART have it
    if isinstance(parts, (tuple, list)) and len(parts) == len(KEYS):
        parts = dict(zip(KEYS, parts, strict=True))
    if not isinstance(parts, Mapping) or not set(KEYS) <= set(parts):
        raise ValueError(f"`dataset`: {name} returned {shown(found)}; expected {', '.join(KEYS)}, or a dict of these")
    arrays = {key: (_array if key[0] == "x" else _indices)(parts[key]) for key in KEYS}
    return dataset_of(name.rpartition(":")[2], arrays, name)


def _is_pair(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2


def _array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _indices(values: Any) -> np.ndarray:
    """Labels, as class indices where they are one-hot."""
    labels = _array(values)
    one_hot = labels.ndim == 2 and labels.shape[1] > 1 and np.isin(labels, (0, 1)).all()
    return labels.argmax(axis=1) if one_hot and (labels.sum(axis=1) == 1).all() else labels


def _from_folder(folder: Path) -> Dataset:
    parts = {path.name: path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
    test = next((parts[name] for name in _TEST_FOLDERS if name in parts), None)
    try:
        if ("train" in parts) != (test is not None):
            raise ValueError(f"it has one of train and {' or '.join(_TEST_FOLDERS)}; expected both, or classes alone")
        if test is not None:
            train_files, test_files = _files(parts["train"]), _files(test)
            if set(train_files) != set(test_files):
                other = min(set(train_files) ^ set(test_files))
                raise ValueError(f"the class {other!r} is in one of {parts['train']} and {test} only")
        else:
            train_files, test_files = _split(_files(folder))
        size = _open(next(iter(train_files.values()))[0]).size
        parts_read = [_read_all(files, size) for files in (train_files, test_files)]
    except ValueError as error:
        raise ValueError(f"`dataset`: the folder {folder} cannot be used: {error}") from error
    channels = 1 if all(grey for _, _, grey in parts_read) else 3
    (x_train, y_train), (x_test, y_test) = ((images[..., :channels], labels) for images, labels, _ in parts_read)
    arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    return dataset_of(folder.resolve().name, arrays, str(folder))


def _files(folder: Path) -> dict[str, list[Path]]:
    """The images of each class, a folder each, both in the order of their names."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(classes) < 2:
        raise ValueError(f"{folder} has {len(classes)} folders; expected one for each class")
    files = {path.name: sorted(file for file in path.rglob("*") if _is_image(file, path)) for path in classes}
    for name, found in files.items():
        if not found:
            raise ValueError(f"{folder / name} holds no images ({', '.join(sorted(_ENDINGS))})")
    return files


def _is_image(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return file.suffix.lower() in _ENDINGS and not hidden


def _split(files: dict[str, list[Path]]) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """A quarter of each class for testing, the same ones each time."""
    rng = np.random.default_rng(_SEED)
    train, test = {}, {}
    for name, found in files.items():
        if len(found) < 2:
            raise ValueError(f"the class {name!r} has one image; expected some for training and some for testing")
        mixed = [found[number] for number in rng.permutation(len(found))]
        count = max(1, len(found) // _TEST_EVERY)
        test[name], train[name] = mixed[:count], mixed[count:]
    return train, test


def _read_all(files: dict[str, list[Path]], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, bool]:
    """The images `(n, height, width, 3)` in mixed order, their class indices, and whether all of them are grey."""
    listed = [(path, label) for label, found in enumerate(files.values()) for path in found]
    if 15 * len(listed) * size[0] * size[1] > available_memory():  # as bytes, and as float32
        raise ValueError(f"its {len(listed)} images do not fit into this machine's memory")
    mixed = [listed[number] for number in np.random.default_rng(_SEED).permutation(len(listed))]
    images = np.empty((len(mixed), size[1], size[0], 3), dtype=np.uint8)
    grey = True
    for number, (path, _) in enumerate(mixed):
        image = _open(path)
        if image.size != size:
            sizes = " and ".join(f"{width} x {height}" for width, height in (size, image.size))
            raise ValueError(f"it has images of {sizes} ({path.name}); expected one size: scale them first")
        images[number] = np.asarray(image.convert("RGB"))
        grey = grey and image.mode in ("1", "L", "LA")
    return images, np.array([label for _, label in mixed], dtype=np.int64), grey


def _open(path: Path) -> Any:
    """An image as it is to be looked at, if it can be had without loss in 8 bits a channel."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ValueError("a folder of images needs Pillow: pip install 'art_sensreg[bench]'") from error
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            image.load()
    except Exception as error:  # a file may be damaged in any way
        raise ValueError(f"{path.name} cannot be read as an image: {one_line(error)[:200]}") from error
    if image.mode not in ("1", "L", "P", "RGB", "RGBA", "LA"):
        raise ValueError(f"{path.name} is an image of mode {image.mode}; expected grey or RGB of 8 bits")
    if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
        raise ValueError(f"{path.name} has transparent parts; expected an opaque image")
    return image
