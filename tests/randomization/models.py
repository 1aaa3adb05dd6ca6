"""A model with convolutions in functional style."""

import torch
from torch import nn
from torch.nn import functional

KINDS = ["rse", "bayesian", "pni"]


class Functional(nn.Module):
    """A nested model in functional style that uses one layer twice."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular")
        self.block = nn.ModuleDict({"shared": nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)})
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = functional.relu(self.norm(self.first(x)))
        x = functional.relu(self.block["shared"](x))
        x = functional.relu(self.block["shared"](x))
        return self.head(x.mean((2, 3)))


def functional_model():
    torch.manual_seed(0)
    return Functional()
