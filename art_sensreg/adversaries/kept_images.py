"""The perturbed images of a step whose loss is evaluated more than once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


class KeptImages:
    """Makes the perturbed images of each part of a batch in the first evaluation, and returns them in later ones."""

    def __init__(self) -> None:
        self._images: list[torch.Tensor] | None = None
        self._next: int | None = None  # None in the first evaluation

    @contextmanager
    def of_one_step(self) -> Iterator[None]:
        """Inside, images are kept."""
        self._images, self._next = [], None
        try:
            yield
        finally:
            self._images, self._next = None, None

    def again(self) -> None:
        """The next evaluation begins: it takes the same images, in the same order."""
        self._next = 0

    def __call__(self, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The images of the next part, which `make` makes the first time."""
        if self._images is None or self._next is None:
            made = make()
            if self._images is not None:
                self._images.append(made)
            return made
        self._next += 1
        return self._images[self._next - 1]
