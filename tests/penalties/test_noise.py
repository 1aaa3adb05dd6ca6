import math

import pytest
import torch

from art_sensreg.penalties.noise import NOISES, draw_noise, draw_unit_sphere


@pytest.mark.parametrize("noise", NOISES)
def test_mean_0_variance_1_and_rows_of_their_own(noise):
    sample = draw_noise(torch.zeros(20_000, 2, 3, dtype=torch.float64), noise, torch.Generator().manual_seed(0))
    n = sample.numel()
    assert abs(sample.mean()) < 4 / math.sqrt(n)
    spread = (sample**2).var().sqrt() / math.sqrt(n)
    assert abs((sample**2).mean() - 1) <= 4 * spread + 1e-12
    flat = sample.flatten(1)
    correlation = flat.T @ flat / len(flat)
    assert (correlation - torch.eye(6)).abs().max() < 4 * 1.5 / math.sqrt(len(flat))
    assert not torch.equal(flat[0], flat[1])


def test_sphere_has_norm_root_d():
    rows = draw_noise(torch.zeros(50, 3, 4), "sphere").flatten(1)
    assert torch.allclose(rows.norm(dim=1), torch.full((50,), math.sqrt(12)))


def test_unit_sphere_has_norm_1():
    assert torch.allclose(draw_unit_sphere(50, 7, torch.zeros(1)).norm(dim=1), torch.ones(50))


def test_signs_are_fair():
    signs = draw_noise(torch.zeros(10_000, 1), "rademacher")
    assert set(signs.unique().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("noise", NOISES)
def test_a_generator_decides_the_draw_and_the_global_one_is_left_alone(noise):
    state = torch.get_rng_state()
    first = draw_noise(torch.zeros(4, 5), noise, torch.Generator().manual_seed(7))
    assert torch.equal(first, draw_noise(torch.zeros(4, 5), noise, torch.Generator().manual_seed(7)))
    assert torch.equal(state, torch.get_rng_state())


def test_unknown_noise():
    with pytest.raises(ValueError, match=r"`noise` is 'pink'; expected one of gaussian"):
        draw_noise(torch.zeros(2, 2), "pink")
