"""Norms and sizes: perturbations that keep to the rules, and random noise."""

import numpy as np
import pytest

from art_sensreg.benchmark.config.threat_models import (
    Threat,
    allowed,
    pair_threats,
    perturbation_size,
    random_noise,
    threats_of,
    threats_to_dict,
)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.5), ("l1", 2.0)])
def test_noise_has_the_size_asked_for(norm, eps):
    x = np.full((200, 1, 8, 8), 0.5, dtype=np.float32)
    noisy = random_noise(x, norm, eps, seed=0)
    size = perturbation_size(x, noisy, norm)
    assert allowed(x, noisy, norm, eps).all()
    if norm == "linf":
        assert np.abs(noisy - x).mean() == pytest.approx(eps / 2, rel=0.02)  # uniform
    else:
        np.testing.assert_allclose(size, eps, rtol=1e-4)
    assert not np.array_equal(noisy, random_noise(x, norm, eps, seed=1))


def test_perturbations_that_are_not_finite_count_at_no_eps():
    x = np.zeros((3, 1, 2, 2), np.float32)
    x_adv = x.copy()
    x_adv[0, 0, 0, 0], x_adv[1, 0, 0, 0], x_adv[2] = np.nan, np.inf, 0.5
    assert perturbation_size(x, x_adv, "linf").tolist() == [np.inf, np.inf, 0.5]
    assert perturbation_size(x, x_adv, "l2").tolist() == [np.inf, np.inf, 1.0]


@pytest.mark.parametrize("threats", [(Threat("linf", (0.1, 0.2)),), (Threat("linf", (0.1,)), Threat("l2", (0.5, 1.0)))])
def test_what_is_stored_is_read_again(threats):
    assert threats_of(threats_to_dict(threats)) == threats


def test_every_norm_needs_its_sizes():
    with pytest.raises(ValueError, match="has 1 groups of sizes; expected 2"):
        pair_threats(["linf", "l2"], [(0.1,)], {})
