import torch
from torch import nn
from torch.func import functional_call


def by_weights(net, value):
    """`value(model)` as a function of the net's parameters, and those parameters as leaves: what gradcheck takes."""
    names, values = zip(*net.named_parameters(), strict=True)

    class Bound(nn.Module):
        def __init__(self, values):
            super().__init__()
            self.values = values

        def forward(self, x):
            return functional_call(net, dict(zip(names, self.values, strict=True)), (x,))

    leaves = [parameter.detach().clone().requires_grad_() for parameter in values]
    return (lambda *values: value(Bound(values))), leaves


def generator(seed=0):
    return torch.Generator().manual_seed(seed)
