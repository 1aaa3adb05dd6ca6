"""Where the perturbations of carried adversaries are kept between two visits of an image, and what a visit is."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch

from art_sensreg.adversaries.base import Adversary
from art_sensreg.penalties.forward.inner_ascent import ClipValues

logger = logging.getLogger(__name__)

LEVELS = 127


class PerturbationMemory:
    """
    The perturbation of every image of a data set, one byte a pixel: `d / eps` in 127 steps on either side of 0.

    Entries of a perturbation in an L2 ball are far smaller than `eps`, so that each has its own largest entry for its
    unit. They are on the device of the training, or, if they would fill more than half of what is free there, in the
    host's memory.

    :param adversary: Its `eps`, norm, and first perturbations.
    :param count: Number of images.
    :param like: Some images, `(n, ...)`, of the shape, type and device of all.
    :param seed: Seed of the first perturbations.

    Example:
    >>> from art_sensreg.adversaries import CarriedAdversary
    >>> from art_sensreg.adversaries.visits import PerturbationMemory
    >>> memory = PerturbationMemory(CarriedAdversary(eps=0.1), 5, torch.zeros(1, 3), seed=0)
    >>> memory.write(torch.tensor([4]), torch.tensor([[0.1, 0.0, -0.1]]))
    >>> memory.read(torch.tensor([4]))
    tensor([[ 0.1000,  0.0000, -0.1000]])
    """

    def __init__(self, adversary: Adversary, count: int, like: torch.Tensor, seed: int) -> None:
        self._eps, self._linf = adversary.radius, adversary.ball == "linf"
        self._dtype, self._device = like.dtype, like.device
        size, place = count * like[0].numel(), like.device
        if place.type == "cuda" and 2 * size > torch.cuda.mem_get_info(place)[0]:
            place = torch.device("cpu")
        self.levels = torch.empty(count, *like.shape[1:], dtype=torch.int8, device=place)
        self.units = None if self._linf else torch.empty(count, dtype=torch.float32, device=place)
        self._visited: torch.Tensor | None = None  # not before training begins
        self._visits = 0
        generator = torch.Generator(device=like.device).manual_seed(seed)
        for first in range(0, count, 4096):
            indices = torch.arange(first, min(first + 4096, count), device=place)
            blank = torch.zeros(len(indices), *like.shape[1:], dtype=like.dtype, device=like.device)
            self.write(indices, adversary.draw_start(blank, generator))
        if not adversary.replays:  # else perturbations are kept by place in a batch
            self._visited = torch.zeros(count, dtype=torch.bool, device=place)

    def read(self, indices: torch.Tensor) -> torch.Tensor:
        """The perturbations of these images, in input units, on the device of the training."""
        indices = self._there(indices)
        levels = self.levels.index_select(0, indices).to(self._device, self._dtype)
        if self.units is None:
            return levels * (self._eps / LEVELS)
        return levels * _shaped(self.units.index_select(0, indices).to(levels), levels)

    def write(self, indices: torch.Tensor, perturbations: torch.Tensor) -> None:
        """Keep the perturbations of these images."""
        levels, units = self.encode(perturbations)
        self.put(indices, levels, units)

    def encode(self, perturbations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Perturbations as levels, one byte an entry, and their units (of an L-inf ball all have the same)."""
        units = None
        if self.units is None:
            scaled = perturbations * (LEVELS / self._eps)
        else:
            tiny = torch.finfo(torch.float32).tiny
            units = perturbations.flatten(1).float().abs().amax(1).clamp_min(tiny) / LEVELS
            scaled = perturbations / _shaped(units, perturbations).to(perturbations)
        return scaled.round().clamp(-LEVELS, LEVELS).to(torch.int8), units

    def put(self, indices: torch.Tensor, levels: torch.Tensor, units: torch.Tensor | None) -> None:
        """Keep what :meth:`encode` returned."""
        indices = self._there(indices)
        self.levels.index_copy_(0, indices, levels.to(self.levels.device))
        if self.units is not None and units is not None:
            self.units.index_copy_(0, indices, units.to(self.units.device))
        if self._visited is not None:
            self._visited.index_fill_(0, indices, True)
            self._visits += len(indices)

    def _there(self, indices: torch.Tensor) -> torch.Tensor:
        # The host would not wait for an asynchronous copy from a GPU, and read what is not there yet.
        return indices.to(self.levels.device, non_blocking=self.levels.device.type != "cpu")

    def check_visits(self) -> None:
        """After an epoch, the first time: warn if indices name too few images for how many examples there were."""
        if self._visited is not None:
            images, self._visited = int(self._visited.sum()), None
            if 2 * images < self._visits:
                logger.warning(
                    "The indices of the loader name %d images in an epoch of %d examples, so that images share "
                    "perturbations; expected the place of each image in the data set, not in its batch.",
                    images, self._visits,
                )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """All perturbations."""
        return {"levels": self.levels} if self.units is None else {"levels": self.levels, "units": self.units}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.check(state)
        self.levels.copy_(state["levels"])
        if self.units is not None:
            self.units.copy_(state["units"])

    def check(self, state: dict[str, Any]) -> None:
        """ValueError if a state is of other images."""
        found, expected = tuple(state["levels"].shape), tuple(self.levels.shape)
        if found != expected:
            raise ValueError(f"The checkpoint holds perturbations of shape {found}; expected {expected}.")


def _shaped(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))


@dataclass
class Visit:
    """
    A step of a carried adversary on some images: the perturbations that it starts from; those that it ended at, once
    they are known; of a free one the perturbed images, whose gradient the backward pass of the training step computes.
    """

    start: torch.Tensor
    moved: torch.Tensor | None = None
    leaf: torch.Tensor | None = None

    def begin(self, adversary: Adversary, x: torch.Tensor, clip_values: ClipValues | None) -> torch.Tensor:
        """The perturbed images of a free adversary: their gradient will be known after the backward pass."""
        start = adversary.ascent(clip_values).project(x.detach(), x.detach() + self.start)
        self.leaf = start.requires_grad_(torch.is_grad_enabled())
        return self.leaf.clone()  # the model may work in place

    @torch.no_grad()
    def finish(self, adversary: Adversary, x: torch.Tensor, clip_values: ClipValues | None) -> torch.Tensor:
        """The perturbations to keep, after the backward pass; of images without a finite gradient the former ones."""
        if self.leaf is not None:
            moved, gradient = self.leaf.detach(), self.leaf.grad
            if gradient is not None:
                # In half precision a scaled loss overflows now and then: that step is left out, the images come again.
                finite = gradient.flatten(1).isfinite().all(1)
                ascended = adversary.ascent(clip_values).move(x, moved, gradient)
                moved = torch.where(_shaped(finite, moved), ascended, moved)
            self.moved = moved - x
        return self.start if self.moved is None else self.moved
