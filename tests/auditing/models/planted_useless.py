"""Models that are no better than guessing before anybody attacks them."""

from __future__ import annotations

import torch
from torch import nn

from art_sensreg.datasets import Dataset
from art_sensreg.models import build_model
from tests.auditing.models.planted_base import Back, planted, seeded

USELESS = "The model does not know the classes, attacked or not."


def untrained(digits: Dataset, base: nn.Module) -> nn.Module:
    return seeded(lambda: build_model("cnn-small", digits.input_shape, digits.nb_classes))


def constant(z: torch.Tensor) -> torch.Tensor:
    """Class 3, by two."""
    return 0 * z + 2 * torch.nn.functional.one_hot(torch.tensor(3), z.shape[1])


FAULTS = [
    planted("untrained", USELESS, untrained),
    planted("constant", USELESS, lambda d, b: Back(b, constant)),
    planted("classes_in_another_order", USELESS, lambda d, b: Back(b, lambda z: z.roll(1, 1))),
]
