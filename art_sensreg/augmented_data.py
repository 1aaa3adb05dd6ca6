"""Augmented training data for trainers that know of no augmentation: ART's own, for instance."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
import torch
from art.data_generators import DataGenerator

from art_sensreg.penalties.forward.noise import Probes
from art_sensreg.training.batches import Augmentation
from art_sensreg.utils import check_seed
from art_sensreg.utils.rng import derive_seed


class AugmentedImages:
    """
    Images for a trainer that draws each batch by an array of indices, `x[indices]`: it gets them augmented, anew every
    time. So do ART's adversarial trainers and its DP-InstaHide in `fit`. A training that wants one array of all images
    is refused.

    :param x: Images, `(n, channels, height, width)`.
    :param augmentation: What is done to them.
    :param seed: Seed of what is drawn.
    :param low: The lower end of the input range, for pixels that are cut out or come from outside of the image: a
        number, or an array that broadcasts against an image.
    :raises ValueError: If `x` holds no images that are large enough, or the seed or
        `low` is out of range.
    :raises TypeError: If `augmentation` is not an :class:`Augmentation`, or `x` holds no numbers.

    Example:
    >>> from art_sensreg import Augmentation
    >>> from art_sensreg.augmented_data import AugmentedImages
    >>> images = AugmentedImages(np.ones((5, 1, 4, 4), np.float32), Augmentation(crop_padding=1))
    >>> images[np.array([3, 1])].shape, images.drawn
    ((2, 1, 4, 4), 1)
    """

    def __init__(self, x: np.ndarray, augmentation: Augmentation, seed: int = 0, low: float | np.ndarray = 0.0) -> None:
        if not isinstance(augmentation, Augmentation):
            raise TypeError(f"`augmentation` is {augmentation!r}; expected an Augmentation.")
        check_seed("seed", seed)
        x = np.asarray(x)
        if x.dtype.kind not in "fiu":
            raise TypeError(f"`x` has dtype {x.dtype}; expected numbers.")
        augmentation.check(x.shape)
        self._x, self._augmentation, self._low = x, augmentation, _lowest(low, x)
        self._probes = Probes(derive_seed(seed, "augmentation"), torch.device("cpu"))
        self.drawn = 0
        """How many batches were drawn."""

    @property
    def shape(self) -> tuple[int, ...]:
        """That of all images."""
        return tuple(self._x.shape)

    @property
    def dtype(self) -> Any:
        """The type of their values."""
        return self._x.dtype

    def __len__(self) -> int:
        return len(self._x)

    def __getitem__(self, indices: Any) -> np.ndarray:
        if not isinstance(indices, np.ndarray) or indices.ndim != 1 or indices.dtype.kind not in "iu":
            self._refuse(f"index {indices!r}")
        images = torch.from_numpy(np.ascontiguousarray(self._x[indices]))
        transform = self._augmentation.draw(images, self._probes.at(self.drawn))
        self.drawn += 1
        augmented: np.ndarray = transform.apply(images, self._low).numpy()
        return augmented

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        self._refuse("request for all of them")

    def _refuse(self, what: str) -> NoReturn:
        raise TypeError(
            f"images with `augmentation` {self._augmentation!r} got the {what}; expected a trainer that draws each "
            "batch by an array of indices."
        )


def _lowest(low: float | np.ndarray, x: np.ndarray) -> torch.Tensor:
    """The lower end of the range, as it broadcasts against images."""
    try:
        values = np.asarray(low, dtype=np.float64)
        fits = np.broadcast_shapes(values.shape, x.shape[1:]) == x.shape[1:] and np.isfinite(values).all()
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(f"`low` is {low!r}; expected a finite number, or numbers that broadcast to {x.shape[1:]}.")
    return torch.from_numpy(values)


class _AugmentedGenerator(DataGenerator):
    """Shuffled batches of augmented images and their labels, epoch after epoch."""

    def __init__(self, images: AugmentedImages, y: np.ndarray, batch_size: int, seed: int) -> None:
        super().__init__(size=len(images), batch_size=batch_size)
        self._images, self._y = images, y
        self._random = np.random.default_rng(derive_seed(seed, "order"))
        self._left: list[np.ndarray] = []

    def get_batch(self) -> tuple[np.ndarray, np.ndarray]:
        """The next batch; the last one of an epoch may be smaller."""
        if not self._left:
            order = self._random.permutation(len(self._images))
            self._left = np.split(order, range(self.batch_size, len(order), self.batch_size))[::-1]
        indices = self._left.pop()
        return self._images[indices], self._y[indices]


def augmented(
    x: np.ndarray,
    y: np.ndarray,
    augmentation: Augmentation,
    batch_size: int = 128,
    seed: int = 0,
    low: float | np.ndarray = 0.0,
) -> DataGenerator:
    """
    Augmented training data as one of ART's data generators, for `fit_generator` of any trainer or classifier of ART.
    The trainers of this package need none: `TrainingConfig(augmentation=...)`.

    :param x: Images, `(n, channels, height, width)`.
    :param y: Their labels, in whatever form the trainer takes.
    :param augmentation: What is done to the images, anew in every epoch.
    :param batch_size: Images in a batch.
    :param seed: Seed of the order and of what is drawn.
    :param low: The lower end of the input range, for pixels that are cut out or come from outside of the image: a
        number, or an array that broadcasts against an image.
    :return: Batches without end, shuffled anew after each pass over the data.
    :raises ValueError: If `x` holds no images that are large enough, `y` has another length, or a number is out of
        range.
    :raises TypeError: If `augmentation` is not an :class:`Augmentation`, or `x` holds no numbers.

    Example:
    >>> from art_sensreg import Augmentation, augmented
    >>> x, y = np.random.default_rng(0).random((10, 1, 8, 8)), np.arange(10)
    >>> generator = augmented(x, y, Augmentation(crop_padding=1, flip=True), batch_size=4)
    >>> [len(generator.get_batch()[0]) for _ in range(4)]
    [4, 4, 2, 4]
    """
    images = AugmentedImages(x, augmentation, seed, low)
    labels = np.asarray(y)
    count = len(labels) if labels.ndim else 0
    if count != len(images):
        raise ValueError(f"`y` has {count} labels; expected {len(images)}, one for each image of `x`.")
    return _AugmentedGenerator(images, labels, batch_size, seed)
