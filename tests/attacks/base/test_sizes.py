import numpy as np
import pytest
import torch

from art_sensreg.attacks.base.norms import Ball, norm_name, perturbation_norm
from art_sensreg.attacks.base.sizes import check_size, diameter, parse_size
from art_sensreg.benchmark.config.threat_models import random_noise


@pytest.mark.parametrize(("norm", "largest"), [(np.inf, 1.0), ("L2", 2.0), (2.0, 2.0), (1, 4.0)])
def test_a_norm_may_be_written_in_many_ways_for_sizes(norm, largest):
    assert diameter(norm, (4,), 0.0, 1.0) == largest
    x = np.full((1, 4), 0.5, dtype=np.float32)
    assert np.array_equal(random_noise(x, norm, 0.1, seed=0), random_noise(x, norm_name(norm), 0.1, seed=0))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_diameter_is_the_distance_between_opposite_corners(norm):
    low, high = np.array([0.0, -1.0, 2.0]), np.array([1.0, 1.0, 5.0])
    corners = torch.from_numpy(high - low)[None]
    assert diameter(norm, (2, 3), low, high) == pytest.approx(
        perturbation_norm(torch.cat([corners] * 2, 1), norm).item()
    )
    assert diameter(norm, (3,), -np.inf, np.inf) == np.inf


def test_a_size_is_refused_only_where_it_reaches_beyond_every_image():
    x, far = torch.zeros(1, 4), torch.ones(1, 4)
    for norm in ("linf", "l2", "l1"):
        largest = diameter(norm, (4,), 0.0, 1.0)
        check_size("eps", largest, norm, (4,))
        assert torch.allclose(Ball(norm, largest, 0.0, 1.0).project(x, far), far)
        with pytest.raises(ValueError, match=r"`eps` is .*; expected at most"):
            check_size("eps", 1.01 * largest, norm, (4,))


@pytest.mark.parametrize(
    ("text", "size"), [("8/255", 8 / 255), (" 0.5 / 2 ", 0.25), ("1e-3", 1e-3), (np.float32(0.5), 0.5), (2, 2.0)]
)
def test_sizes_are_numbers_or_fractions(text, size):
    assert parse_size("eps", text) == size


@pytest.mark.parametrize(
    "value", ["", "a", "1/0", "1/2/3", "-1/255", "0/255", "nan", "inf", 0, -1.0, 10**400, None, [1]]
)
def test_other_sizes_are_refused(value):
    with pytest.raises((TypeError, ValueError), match=r"`eps` .*expected a"):
        parse_size("eps", value)
