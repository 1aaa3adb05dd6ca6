"""The calls that are non-linearities, by every name that torch has for them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from art_sensreg.penalties.forward.nonlinearities import gate_name, watched_name
from art_sensreg.penalties.forward.taps import plan_taps

NAMES = {
    "relu": [torch.relu, F.relu, torch.Tensor.relu_],
    "sigmoid": [torch.sigmoid, torch.special.expit],
    "gelu": [F.gelu],
}


@pytest.mark.parametrize("name", NAMES)
def test_one_function_by_all_its_names(name):
    assert {watched_name(function, (), {}) for function in NAMES[name]} == {name}


def test_clamps_that_are_activations_gates_and_neither():
    x = torch.ones(1)
    assert watched_name(torch.clamp, (x, 0), {}) == "relu"
    assert watched_name(torch.Tensor.clip, (x,), {"min": 0, "max": 1}) is None
    assert gate_name(torch.Tensor.clip, (x,), {"min": 0, "max": 6}) == "clamp"
    assert gate_name(torch.clamp, (x, -1, 1), {}) is None
    assert watched_name(torch.add, (x, x), {}) is None


@pytest.mark.parametrize("relu", [lambda x: x.clamp(min=0), lambda x: x.clip(0), lambda x: torch.clamp_min(x, 0)])
def test_relus_in_disguise(relu):
    class Disguised(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.b(relu(self.a(x.clamp(0, 1))))

    assert plan_taps(Disguised(), "hidden", torch.rand(3, 4)).names == ("relu",)
