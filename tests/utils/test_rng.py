import random

import numpy as np
import torch

from art_sensreg.utils.rng import derive_seed, random_state, restore_random_state, seed_everything


def draws():
    return random.random(), np.random.rand(), float(torch.rand(1)), float(np.random.normal())


def test_derived_seeds_differ_by_purpose_and_are_always_the_same():
    seeds = [
        derive_seed(0, "noise", 1),
        derive_seed(0, "noise", 2),
        derive_seed(1, "noise", 1),
        derive_seed(0, "order", 1),
    ]
    assert len(set(seeds)) == 4
    assert seeds[0] == derive_seed(0, "noise", 1) == 4331743028374165210
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_global_generators_depend_on_the_purpose_alone():
    seed_everything("attack", 0, 0.1)
    first = np.random.rand(), float(torch.rand(1))
    seed_everything("attack", 0, 0.2)
    other = np.random.rand(), float(torch.rand(1))
    seed_everything("attack", 0, 0.1)
    assert (np.random.rand(), float(torch.rand(1))) == first
    assert other != first


def test_a_restored_state_draws_the_same():
    np.random.normal()  # of which numpy keeps a second number
    state = random_state()
    first = draws()
    restore_random_state(state)
    assert draws() == first
