"""The perturbations that an audit considers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from art_sensreg.attacks.base.norms import perturbation_norm
from tests.auditing.models.planted_base import wrap
from tests.auditing.reports import context_of


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_large_ball_holds_a_change_of_every_pixel(digits, tiny, norm, share):
    threat = context_of(tiny, digits.x_test[:4], digits.y_test[:4], norm=norm).threat
    change = torch.full((1, 1, 8, 8), share)
    assert perturbation_norm(change, norm).item() == pytest.approx(threat.large_eps(share))
    assert threat.ball(0.3).eps == 0.3
    assert (threat.ball().eps, threat.ball().norm) == (0.1, norm)


def test_without_clip_values_the_images_tell_the_range_and_the_ball_has_none(digits, tiny):
    x = 2 * digits.x_test[:4] - 1
    threat = context_of(wrap(digits, tiny.model, clip_values=None), x, digits.y_test[:4]).threat
    assert threat.range == (x.min(), x.max())
    assert threat.width == x.max() - x.min()
    assert (float(threat.ball().low), float(threat.ball().high)) == (-np.inf, np.inf)
