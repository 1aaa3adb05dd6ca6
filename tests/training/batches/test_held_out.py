"""Data to score on: in the same order every time, and samples from all over them."""

import pytest
import torch

from art_sensreg.training.batches import HeldOutLoader, HeldOutTensors

X, Y = torch.arange(10.0)[:, None], torch.arange(10)


def loader_of(start):
    return HeldOutLoader(start, length=2)


def test_tensors_arrive_complete_and_in_order():
    held_out = HeldOutTensors(X, Y, encode=lambda y: y + 1, clip=(torch.tensor(0.0), torch.tensor(5.0)))
    x, y = (torch.cat(parts) for parts in zip(*held_out.batches(4), strict=True))
    assert torch.equal(x, X.clamp(0, 5))
    assert torch.equal(y, Y + 1)


def test_a_loader_that_draws_at_random_draws_the_same_and_leaves_the_callers_generator_alone():
    held_out = loader_of(lambda: iter([(torch.rand(3, 2), Y[:3]), (torch.rand(2, 2), Y[:2])]))
    before = torch.get_rng_state()
    first, second = (torch.cat([x for x, _ in held_out.batches(2)]) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


def test_samples_are_spread_over_data_that_are_sorted():
    assert HeldOutTensors(X, Y).sample(3)[1].tolist() == [0, 4, 9]
    assert loader_of(lambda: iter([(X[:5], Y[:5]), (X[5:], Y[5:])])).sample(4)[1].tolist() == [0, 4, 5, 9]


def test_a_loader_without_a_batch_is_refused():
    with pytest.raises(ValueError, match="`validation_data` yielded no batch"):
        loader_of(lambda: iter([])).check()
