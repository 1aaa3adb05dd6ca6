"""Data sets by name, and any `.npz` file: float32 images in [0, 1], channels first."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from art_sensreg.archives import KEYS, load_archive
from art_sensreg.utils.checks import did_you_mean
from art_sensreg.utils.npz import read_npz

DATASETS = ("digits", "mnist", "cifar10")
# Class indices below this are accepted; larger ones only if there are at least as many images.
_MOST_CLASSES = 1000


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """
    Images `(n, channels, height, width)`, float32 in [0, 1], and class indices `(n,)`, int64.

    :param name: Name of the data set.
    :param x_train: Training images.
    :param y_train: Training labels.
    :param x_test: Test images.
    :param y_test: Test labels.
    :param classes: Number of classes, if a model tells more of them apart than occur here; None: those that occur.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: int | None = None

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one image."""
        channels, height, width = self.x_train.shape[1:]
        return channels, height, width

    @property
    def nb_classes(self) -> int:
        """Number of classes."""
        return self.classes or int(max(self.y_train.max(), self.y_test.max())) + 1

    def limited(self, train_size: int | None = None, test_size: int | None = None) -> Dataset:
        """The first images of each part; all if the size is None."""
        return replace(
            self,
            x_train=self.x_train[:train_size],
            y_train=self.y_train[:train_size],
            x_test=self.x_test[:test_size],
            y_test=self.y_test[:test_size],
        )

    @property
    def crc32(self) -> int:
        """Checksum of all images and labels."""
        value = 0
        for array in (self.x_train, self.y_train, self.x_test, self.y_test):
            value = zlib.crc32(np.ascontiguousarray(array).data, value)
        return value

    def with_validation_as_test(self, fraction: float = 1 / 6, seed: int = 0) -> Dataset:
        """
        The data set with held-out training images instead of its test images, for choosing settings.

        :param fraction: Share of the training images that is held out.
        :param seed: Seed of the choice.
        """
        order = np.random.default_rng(seed).permutation(len(self.x_train))
        count = max(1, round(len(order) * fraction))
        held, kept = order[:count], order[count:]
        return replace(
            self,
            x_train=self.x_train[kept],
            y_train=self.y_train[kept],
            x_test=self.x_train[held],
            y_test=self.y_train[held],
        )


def load_dataset(name: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """
    Load a data set.

    :param name: `digits` (scikit-learn's 8x8 digits, no download), `mnist`, `cifar10`, or the path of an `.npz` file
        with `x_train, y_train, x_test, y_test`: uint8 images NHW or NHWC, or floats in [0, 1].
    :param data_dir: Folder with `mnist.npz` and `cifar10.npz`; without it the published files are taken from ART's data
        folder, or downloaded into it.
    :return: The data set.
    :raises ValueError: If the name is unknown, or the file is not of that form.
    :raises OSError: If the file does not exist, or cannot be read or downloaded.

    Example:
    >>> from art_sensreg.datasets import load_dataset
    >>> digits = load_dataset("digits")
    >>> digits.x_train.shape, digits.nb_classes
    ((1347, 1, 8, 8), 10)
    """
    if name == "digits":
        return _load_digits()
    if str(name).endswith(".npz"):
        return _load_file(Path(name))
    if name not in DATASETS:
        raise ValueError(
            f"`dataset` is {name!r}; expected one of {', '.join(DATASETS)}, or the path of an .npz "
            f"file{did_you_mean(name, DATASETS)}"
        )
    if data_dir is not None:
        return replace(_load_file(Path(data_dir) / f"{name}.npz"), name=name)
    return dataset_of(name, load_archive(name), name)


def _load_digits() -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images = (digits.images[order, None] / 16).astype(np.float32)
    labels = digits.target[order].astype(np.int64)
    cut = 3 * len(order) // 4
    return Dataset(name="digits", x_train=images[:cut], y_train=labels[:cut], x_test=images[cut:], y_test=labels[cut:])


def _load_file(path: Path) -> Dataset:
    if not path.is_file():
        raise FileNotFoundError(f"`dataset`: there is no file {path}; expected an .npz file with {', '.join(KEYS)}.")
    return dataset_of(path.stem, read_npz(path, f"`dataset`: {path.name}", KEYS), path.name)


def dataset_of(name: str, arrays: dict[str, np.ndarray], source: str) -> Dataset:
    """
    A data set of arrays, once they are known to be images and labels that belong together.

    :param name: Its name.
    :param arrays: `x_train`, `y_train`, `x_test`, `y_test`, as in an `.npz` file.
    :param source: Where they come from, for messages.
    :return: The data set.
    :raises ValueError: If they cannot be used.

    Example:
    >>> from art_sensreg.datasets import dataset_of
    >>> images, labels = np.zeros((6, 8, 8), dtype=np.uint8), np.arange(6) % 2
    >>> made = dataset_of("mine", {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}, "mine")
    >>> made.input_shape, made.nb_classes
    ((1, 8, 8), 2)
    """
    try:
        parts = {key: (_images if key[0] == "x" else _labels)(arrays[key], key) for key in KEYS}
        for part in ("train", "test"):
            images, labels = parts[f"x_{part}"], parts[f"y_{part}"]
            if len(images) != len(labels):
                raise ValueError(f"`x_{part}` has {len(images)} images and `y_{part}` {len(labels)} labels")
        if parts["x_train"].shape[1:] != parts["x_test"].shape[1:]:
            raise ValueError(f"`x_test` has images of shape {parts['x_test'].shape[1:]}, and `x_train` of another")
        _check_classes(parts)
    except ValueError as error:
        raise ValueError(f"`dataset`: {source} cannot be used: {error}.") from error
    return Dataset(
        name=name,
        x_train=parts["x_train"],
        y_train=parts["y_train"],
        x_test=parts["x_test"],
        y_test=parts["y_test"],
    )


def _check_classes(parts: dict[str, np.ndarray]) -> None:
    """Refuse indices that are not classes (person IDs, say): the model would have an output for each."""
    most = max(_MOST_CLASSES, len(parts["y_train"]) + len(parts["y_test"]))
    for key in ("y_train", "y_test"):
        if parts[key].max() >= most:
            raise ValueError(f"`{key}` has values up to {parts[key].max()}; expected class indices from 0 below {most}")


def _images(array: np.ndarray, key: str) -> np.ndarray:
    """Images of any accepted layout as float32, channels first, in [0, 1]."""
    expected = "uint8 images, or floats in [0, 1], of shape (n, height, width) or (n, height, width, channels)"
    if array.ndim not in (3, 4) or array.size == 0:
        raise ValueError(f"`{key}` has shape {array.shape}; expected {expected}")
    if array.ndim == 3:
        array = array[:, None]
    elif array.shape[3] in (1, 3, 4):
        array = array.transpose(0, 3, 1, 2)
    elif array.shape[1] not in (1, 3, 4):
        raise ValueError(f"`{key}` has shape {array.shape}; expected {expected}")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array, dtype=np.float32) / 255
    if array.dtype.kind != "f":
        raise ValueError(f"`{key}` has dtype {array.dtype}; expected {expected}")
    if not (array.min() >= 0 and array.max() <= 1):  # false for NaN too
        raise ValueError(f"`{key}` has values from {array.min():g} to {array.max():g}; expected {expected}")
    return np.ascontiguousarray(array, dtype=np.float32)


def _labels(array: np.ndarray, key: str) -> np.ndarray:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind not in "iu" or array.ndim != 1 or array.size == 0 or array.min() < 0:
        raise ValueError(f"`{key}` has dtype {array.dtype} and shape {array.shape}; expected class indices (n,) from 0")
    if array.dtype == np.uint64:  # an index beyond int64 would wrap round to a class that exists
        array = np.minimum(array, np.uint64(np.iinfo(np.int64).max))
    return array.astype(np.int64)
