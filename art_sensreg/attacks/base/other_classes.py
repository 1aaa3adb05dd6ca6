"""Other classes: the most likely ones for an image, and images of other classes that guide an attack towards them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.attacks.base.norms import per_example
from art_sensreg.attacks.base.predictions import labels_of


def likely_classes(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The classes other than the label of each image, most likely first, `(n, C - 1)`."""
    with torch.no_grad():
        others = model(x).scatter(1, y[:, None], -float("inf"))
        order: torch.Tensor = others.argsort(dim=1, descending=True, stable=True)
    return order[:, :-1]


def cheapest(cost: torch.Tensor, allowed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each image the index of the cheapest allowed guide, and whether there is one; both inputs are `(n, m)`."""
    return cost.masked_fill(~allowed, float("inf")).argmin(dim=1), allowed.any(dim=1)


def random_guides(
    x: torch.Tensor, y: torch.Tensor, pool: tuple[torch.Tensor, torch.Tensor], generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    For each image a random one of another class out of a pool of images and labels (itself where there is none), and
    whether there is one, `(n,)`. The generator is on the CPU.
    """
    cost = torch.rand((len(x), len(pool[1])), generator=generator, dtype=torch.float32).to(x)
    chosen, found = cheapest(cost, pool[1] != y[:, None])
    return torch.where(per_example(found, x), pool[0][chosen], x), found


def check_guides(classifier: PyTorchClassifier, guides: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Convert guides, a pair (images, labels), to float32 images and class indices on the classifier's device."""
    shape = tuple(classifier.input_shape)
    if not isinstance(guides, (tuple, list)) or len(guides) != 2:
        raise TypeError(f"`guides` is {type(guides).__name__}; expected a pair (images, labels).")
    images = np.asarray(guides[0])
    if images.shape[1:] != shape or not len(images) or images.dtype.kind not in "iuf":
        raise ValueError(
            f"`guides` holds images of shape {images.shape} and dtype {images.dtype}; expected numbers of shape "
            f"(m, {', '.join(map(str, shape))}) with m at least 1."
        )
    try:
        labels = labels_of(classifier, guides[1], len(images))
    except (ValueError, TypeError) as error:
        raise ValueError(f"`guides` holds labels that do not fit: {error}") from error
    device = classifier.device
    return torch.from_numpy(images.astype(np.float32)).to(device), torch.from_numpy(labels).to(device)
