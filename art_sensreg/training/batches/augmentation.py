"""Random crops, flips and cutouts of training images, and the way back for what belongs to their pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from art_sensreg.penalties.forward.noise import Probes
from art_sensreg.utils import check_count, check_flag, python_numbers


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """
    How training images `(n, channels, height, width)` are changed at random in every step: cropped, then flipped, then
    cut out. What is drawn depends on the seed, the step and the place of the image in the (global) batch alone.

    Pixels from outside of the image, and those of the box that is cut out, get the lower end of the input range
    (`clip_values`; 0 without).

    :param crop_padding: Pixels by which each side is padded before a crop of the size of the image is taken at a random
        place (Krizhevsky 2009: 4 for CIFAR-10); 0: no crops.
    :param flip: Whether half of the images are mirrored, left to right.
    :param cutout: Side of a square box around a random pixel that is cut out, as far as it lies in the image (DeVries
        and Taylor 2017, arXiv 1708.04552: 16 for CIFAR-10); 0: none.
    :raises ValueError: If a size is negative.
    :raises TypeError: If a setting has the wrong type.

    Example:
    >>> from art_sensreg import Augmentation, TrainingConfig
    >>> config = TrainingConfig(augmentation=Augmentation(crop_padding=4, flip=True))
    >>> images, probes = torch.rand(5, 3, 8, 8), Probes(seed=0, device=torch.device("cpu"))
    >>> config.augmentation.draw(images, probes.at(step=7)).apply(images).shape
    torch.Size([5, 3, 8, 8])
    """

    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        python_numbers(self)
        for name in ("crop_padding", "cutout"):
            check_count(name, getattr(self, name), 0)
        check_flag("flip", self.flip)

    def check(self, shape: tuple[int, ...]) -> None:
        """
        ValueError unless a batch of this shape holds images that are large enough.

        :param shape: The shape of a batch.
        """
        if len(shape) != 4:
            raise ValueError(
                f"`augmentation` is {self!r} with inputs of shape {tuple(shape[1:])}; expected images of shape "
                "(channels, height, width)."
            )
        side = min(shape[2:])
        for name, largest in (("crop_padding", side - 1), ("cutout", side)):
            if getattr(self, name) > largest:
                raise ValueError(
                    f"`{name}` of `augmentation` is {getattr(self, name)} with images of {shape[2]} x {shape[3]} "
                    f"pixels; expected at most {largest}."
                )

    def draw(self, images: torch.Tensor, generator: Probes) -> Transform:
        """
        Draw a transform for each image of a batch; the host does not wait for the device.

        :param images: The batch, `(n, channels, height, width)`.
        :param generator: Source of randomness, at the step.
        :return: The transforms.
        :raises ValueError: As for :meth:`check`.
        """
        self.check(tuple(images.shape))
        n, _, height, width = images.shape
        drawn: dict[str, Any] = {}
        if self.crop_padding:
            for name in ("down", "right"):
                drawn[name] = generator.whole_numbers(2 * self.crop_padding + 1, n) - self.crop_padding
        if self.flip:
            drawn["flipped"] = generator.whole_numbers(2, n) == 1
        if self.cutout:
            drawn["centre"] = generator.whole_numbers(height, n), generator.whole_numbers(width, n)
        return Transform(height=height, width=width, device=images.device, box=self.cutout, **drawn)


@dataclass(frozen=True, kw_only=True)
class Transform:
    """
    How each image of a batch of `n` is cropped, flipped and cut out.

    :param height: Of the images.
    :param width: Of the images.
    :param device: Where the images are.
    :param down: By how many rows the crop lies below the image, `(n,)`; None: there are no crops.
    :param right: By how many columns it lies to the right of it, `(n,)`.
    :param flipped: Which of the crops are mirrored, `(n,)`, or None.
    :param box: Side of the box that is cut out then.
    :param centre: Row and column of the pixel that it lies around, `(n,)` each, or None.

    Example:
    >>> from art_sensreg.training.batches import Transform
    >>> shift = Transform(height=1, width=4, device=torch.device("cpu"), right=torch.tensor([1]))
    >>> image = torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]])
    >>> shift.apply(image).tolist(), shift.undo(10 * image, former=image).tolist()
    ([[[[2.0, 3.0, 4.0, 0.0]]]], [[[[1.0, 10.0, 20.0, 30.0]]]])
    """

    height: int
    width: int
    device: torch.device
    down: torch.Tensor | None = None
    right: torch.Tensor | None = None
    flipped: torch.Tensor | None = None
    box: int = 0
    centre: tuple[torch.Tensor, torch.Tensor] | None = None

    def apply(self, images: torch.Tensor, fill: torch.Tensor | float = 0.0) -> torch.Tensor:
        """
        Images, or what has one entry for each pixel, in the frame of the augmented images.

        :param images: `(n, channels, height, width)`.
        :param fill: What pixels get that are cut out or come from outside; broadcasts against the images.
        :return: The augmented images; `images` itself is not changed.
        """
        other = fill.to(images) if isinstance(fill, torch.Tensor) else fill
        return _gathered(images, *self._origins, other)

    def undo(self, perturbations: torch.Tensor, former: torch.Tensor) -> torch.Tensor:
        """
        Perturbations of the augmented images, in the frame of the original ones.

        :param perturbations: `(n, channels, height, width)`.
        :param former: What pixels get that were cropped away or cut out, same shape.
        :return: Perturbations of the original images.
        """
        rows, columns = self._grid
        if self.down is not None:
            rows = rows - self.down[:, None]
        if self.right is not None:
            columns = columns - self.right[:, None]
        inside = _within(rows, self.height)[:, :, None] & _within(columns, self.width)[:, None, :]
        columns = self._mirrored(columns)
        if self.centre is not None:
            inside = inside & ~self._cut_out(rows, columns)
        return _gathered(perturbations, rows, columns, inside, former)

    @cached_property
    def _origins(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """From which row and column of the image each row and column comes, and which pixels have an origin."""
        rows, columns = self._grid
        cut = None if self.centre is None else self._cut_out(rows, columns)
        columns = self._mirrored(columns)
        if self.down is not None:
            rows = rows + self.down[:, None]
        if self.right is not None:
            columns = columns + self.right[:, None]
        inside = _within(rows, self.height)[:, :, None] & _within(columns, self.width)[:, None, :]
        return rows, columns, inside if cut is None else inside & ~cut

    @property
    def _grid(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The numbers of the rows, and of the columns, `(1, height)` and `(1, width)`."""
        rows, columns = (torch.arange(size, device=self.device)[None] for size in (self.height, self.width))
        return rows, columns

    def _mirrored(self, columns: torch.Tensor) -> torch.Tensor:
        if self.flipped is None:
            return columns
        return torch.where(self.flipped[:, None], self.width - 1 - columns, columns)

    def _cut_out(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Whether pixels of the augmented images, given by their rows and columns, lie in the boxes."""
        assert self.centre is not None
        in_box = [
            _within(places - middle[:, None] + self.box // 2, self.box)
            for places, middle in zip((rows, columns), self.centre, strict=True)
        ]
        return in_box[0][:, :, None] & in_box[1][:, None, :]


def _within(places: torch.Tensor, size: int) -> torch.Tensor:
    return (places >= 0) & (places < size)


def _gathered(
    images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, inside: torch.Tensor, other: torch.Tensor | float
) -> torch.Tensor:
    """The pixels at these rows and columns, or `other` where these are not inside."""
    n, channels, height, width = images.shape
    places = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    flat = places.expand(n, height, width).reshape(n, 1, -1).expand(n, channels, -1)
    pixels = images.flatten(2).gather(2, flat).view(images.shape)
    return torch.where(inside[:, None], pixels, other)
