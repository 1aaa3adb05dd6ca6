"""Other classes: which are the most likely for an image, and which image of another class to move it towards."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.attacks.base.predictions import labels_of


def likely_classes(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """
    The classes other than the label, most likely first.

    :param model: Module from images to logits.
    :param x: Images, `(n, ...)`.
    :param y: Class indices, `(n,)`.
    :return: Class indices, `(n, C - 1)`.

    Example:
    >>> from art_sensreg.attacks.base.other_classes import likely_classes
    >>> likely_classes(nn.Identity(), torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]))
    tensor([[2, 1]])
    """
    with torch.no_grad():
        others = model(x).scatter(1, y[:, None], -float("inf"))
        order: torch.Tensor = others.argsort(dim=1, descending=True, stable=True)
    return order[:, :-1]


def choose_donors(cost: torch.Tensor, allowed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    For each image the cheapest donor that it is allowed.

    :param cost: Finite cost of each donor for each image, `(n, m)`.
    :param allowed: Whether it may be taken, `(n, m)`.
    :return: Numbers of the donors `(n,)`, and whether there is one, `(n,)`.

    Example:
    >>> from art_sensreg.attacks.base.other_classes import choose_donors
    >>> choose_donors(torch.tensor([[1.0, 2.0]]), torch.tensor([[False, True]]))
    (tensor([1]), tensor([True]))
    """
    return cost.masked_fill(~allowed, float("inf")).argmin(dim=1), allowed.any(dim=1)


def random_donors(
    x: torch.Tensor, y: torch.Tensor, pool: tuple[torch.Tensor, torch.Tensor], generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    For each image a random one of another class.

    :param x: Images, `(n, ...)`.
    :param y: Class indices, `(n,)`.
    :param pool: Images and labels to choose from.
    :param generator: Source of randomness, on the CPU.
    :return: Donors `(n, ...)`, the image itself where there is none; and whether there is one, `(n,)`.

    Example:
    >>> from art_sensreg.attacks.base.other_classes import random_donors
    >>> x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([0, 1])
    >>> random_donors(x, y, (x, y), torch.Generator().manual_seed(0))[0]
    tensor([[2.],
            [1.]])
    """
    cost = torch.rand((len(x), len(pool[1])), generator=generator, dtype=torch.float32).to(x)
    donors, found = choose_donors(cost, pool[1] != y[:, None])
    return torch.where(found.view(-1, *[1] * (x.ndim - 1)), pool[0][donors], x), found


def check_donors(classifier: PyTorchClassifier, donors: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Images and labels that were given as donors.

    :param classifier: The attacked classifier.
    :param donors: A pair of images `(m, *input_shape)` and labels.
    :return: float32 images and class indices, on the classifier's device.
    :raises TypeError: If it is no pair.
    :raises ValueError: If shapes or labels do not fit.

    Example:
    >>> from art_sensreg.attacks.base.other_classes import check_donors
    >>> classifier = PyTorchClassifier(nn.Identity(), nn.CrossEntropyLoss(), (2,), 2)
    >>> check_donors(classifier, (np.zeros((1, 2)), [1]))
    (tensor([[0., 0.]]), tensor([1]))
    """
    shape = tuple(classifier.input_shape)
    if not isinstance(donors, (tuple, list)) or len(donors) != 2:
        raise TypeError(f"`donors` is {type(donors).__name__}; expected a pair (images, labels).")
    images = np.asarray(donors[0])
    if images.shape[1:] != shape or not len(images) or images.dtype.kind not in "iuf":
        raise ValueError(
            f"`donors` holds images of shape {images.shape} and dtype {images.dtype}; expected numbers of shape "
            f"(m, {', '.join(map(str, shape))}) with m at least 1."
        )
    try:
        labels = labels_of(classifier, donors[1], len(images))
    except ValueError as error:
        raise ValueError(f"`donors` holds labels that do not fit: {error}") from error
    device = classifier.device
    return torch.from_numpy(images.astype(np.float32)).to(device), torch.from_numpy(labels).to(device)
