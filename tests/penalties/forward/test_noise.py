import math

import pytest
import torch

from art_sensreg.penalties.forward.noise import NOISES, Probes, draw_noise, draw_unit_sphere


@pytest.mark.parametrize("noise", NOISES)
def test_mean_0_variance_1_and_independent_examples(noise):
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


def probes(**options):
    return Probes(seed=0, device=torch.device("cpu"), **options)


@pytest.mark.parametrize("noise", NOISES)
def test_noise_from_the_bank_has_the_moments_of_fresh_noise(noise):
    source, like = probes(), torch.zeros(500, 10, 20)
    drawn = torch.stack([draw_noise(like, noise, source.at(step)) for step in range(0, 1000, 100)]).double()
    rows = drawn.flatten(0, 1).flatten(1)
    fourth = {"gaussian": 3.0, "uniform": 1.8, "rademacher": 1.0, "sphere": 3 * 200 / 202}[noise]
    assert rows.mean().abs() < 0.005
    assert rows.var() == pytest.approx(1, abs=0.01)
    assert rows.pow(4).mean() == pytest.approx(fourth, rel=0.02)
    covariance = rows.T @ rows / len(rows)
    assert (covariance - torch.eye(200)).abs().max() < 0.08  # 5000 rows: five standard errors
    if noise == "sphere":
        assert torch.allclose(rows.norm(dim=1), torch.full((len(rows),), 200**0.5, dtype=torch.float64), atol=1e-4)


def test_examples_of_one_step_are_uncorrelated():
    rows = draw_noise(torch.zeros(200, 500), "gaussian", probes().at(0)).double()
    correlation = rows @ rows.T / 500
    off = correlation[~torch.eye(200, dtype=torch.bool)]
    assert off.abs().max() < 0.3
    assert off.pow(2).mean() == pytest.approx(1 / 500, rel=0.1)


def test_draws_depend_only_on_seed_step_and_example():
    like = torch.zeros(7, 5)
    whole = draw_noise(like, "gaussian", probes().at(3))
    used = probes()
    draw_noise(like, "uniform", used.at(2))
    assert torch.equal(whole, draw_noise(like, "gaussian", used.at(3)))
    assert not torch.equal(whole, draw_noise(like, "gaussian", used.at(4)))
    assert not torch.equal(whole, draw_noise(like, "gaussian", Probes(1, torch.device("cpu")).at(3)))
    assert torch.equal(whole[4:], draw_noise(like[4:], "gaussian", probes().at(3).after(4)))
    for rank in range(3):
        part = whole[rank::3]
        assert torch.equal(part, draw_noise(part, "gaussian", probes().at(3, rank, 3)))
        later = draw_noise(part[1:], "gaussian", probes().at(3, rank, 3).after(1))
        assert torch.equal(part[1:], later)


def test_draws_of_one_step_differ_and_the_bank_is_renewed():
    source, like = probes(renewed=10), torch.zeros(4, 6)
    source.at(0)
    assert not torch.equal(draw_noise(like, "gaussian", source), draw_noise(like, "gaussian", source))
    first = source._bank("gaussian", source.size, torch.float32).clone()
    source.at(9)
    assert torch.equal(first, source._bank("gaussian", source.size, torch.float32))
    source.at(10)
    assert not torch.equal(first, source._bank("gaussian", source.size, torch.float32))
