"""FGSM-RS and N-FGSM against closed forms on linear models."""

import math

import pytest
import torch
from torch import nn

from art_sensreg.adversaries import FGSMRS, NFGSM
from tests.adversaries.helpers import LOSS, draw_batch


def test_two_class_linear_models_have_a_closed_form():
    # The margin of a two-class linear model moves along one direction: the worst case is a corner.
    x, y = draw_batch(classes=2)
    linear = nn.Linear(12, 2)
    away = (linear.weight[1] - linear.weight[0]).detach().sign() * (1 - 2 * y.float())[:, None]
    noise = FGSMRS(eps=0.1).draw_start(x, torch.Generator().manual_seed(0))
    found = FGSMRS(eps=0.1).perturb(linear, x, y, LOSS, torch.Generator().manual_seed(0))
    assert torch.allclose(found, x + (noise + 0.125 * away).clamp(-0.1, 0.1), atol=1e-6)
    noise = NFGSM(eps=0.1).draw_start(x, torch.Generator().manual_seed(0))
    found = NFGSM(eps=0.1).perturb(linear, x, y, LOSS, torch.Generator().manual_seed(0))
    assert torch.allclose(found, x + noise + 0.1 * away, atol=1e-6)
    assert 0.15 < noise.abs().max() <= 0.2 + 1e-6


def test_the_random_start_is_uniform_in_the_ball():
    start = FGSMRS(eps=0.1).draw_start(torch.zeros(4000, 3), torch.Generator().manual_seed(0))
    assert start.std().item() == pytest.approx(0.1 / math.sqrt(3), rel=0.02)
    assert start.abs().max() <= 0.1 + 1e-6
