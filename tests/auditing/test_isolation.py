"""An audit leaves everything as it was."""

from __future__ import annotations

import random

import numpy as np
import torch

from art_sensreg import audit
from art_sensreg.auditing.isolation import preserve_all


def test_nothing_is_left_behind(digits, plain):
    plain.model.train()
    for parameter in plain.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    weights = [parameter.detach().clone() for parameter in plain.model.parameters()]
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    x, y = digits.x_test[:60], digits.y_test[:60]
    kept = x.copy()
    audit(plain, x, y, eps=0.1, quick=True, twin=plain)
    assert torch.equal(states[0], torch.get_rng_state())
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]
    assert all(module.training for module in plain.model.modules())
    assert all(bool((parameter.grad == 1).all()) for parameter in plain.model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(weights, plain.model.parameters(), strict=True))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in plain.model.modules())
    assert (x == kept).all()
    plain.model.zero_grad()


def test_random_numbers_begin_with_the_seed_and_go_on_outside_as_if_unused(plain):
    torch.manual_seed(5)
    expected = torch.rand(1), torch.rand(1)
    torch.manual_seed(5)
    first = torch.rand(1)
    with preserve_all([plain], seed=0):
        inside = torch.rand(1), np.random.rand()
    with preserve_all([], seed=0):
        assert (torch.rand(1), np.random.rand()) == inside
    assert (first, torch.rand(1)) == expected
