import random
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg.utils.model_rng import (
    Replay,
    preserve_model,
    preserve_rng_state,
    random_sources,
    rewindable_rng_state,
    same_states,
    seeded,
    torch_generator,
)

CPU = torch.device("cpu")
GENERATOR = np.random.default_rng(0)


class Drawing(nn.Module):
    """Draws from a generator that its code names, one that it holds in a list, and one of an enclosing function."""

    def __init__(self, enclosed):
        super().__init__()
        self.held = [torch.Generator()]
        self.hidden = lambda: enclosed.random()

    def forward(self, x):
        return x + GENERATOR.random() + torch.rand(1, generator=self.held[0]) + self.hidden()


def draws():
    return random.random(), np.random.rand(), float(torch.rand(1))


def test_torchs_generator_of_the_cpu():
    assert torch_generator(CPU) is torch.default_generator


def test_sources_are_global_held_and_named_in_code():
    enclosed = random.Random(0)
    model = nn.Sequential(nn.Dropout(), Drawing(enclosed))
    found = random_sources(model, CPU)
    assert found[:3] == [torch.default_generator, np.random, random]
    assert {id(source) for source in found[3:]} == {id(model[1].held[0]), id(GENERATOR), id(enclosed)}
    assert random_sources(None, CPU) == found[:3]


def test_a_replay_draws_again_what_was_drawn_after_it_was_made():
    replay = Replay(random_sources(None, CPU))
    assert same_states(replay)
    first, second = draws(), draws()
    assert not same_states(replay)
    with replay:
        assert draws() == first
    third = draws()
    assert third not in (first, second)


def test_rewinding_ends_where_the_first_draws_ended():
    sources = random_sources(None, CPU)
    replay = Replay(sources)
    expected = [draws(), draws()]
    with replay, rewindable_rng_state(sources) as rewind:
        for _ in range(3):
            assert draws() == expected[0]
            rewind()
    with replay:
        with rewindable_rng_state(sources) as rewind:
            draws()
            rewind()
            draws()
            draws()
        assert draws() == expected[1]


@pytest.mark.parametrize("seed", [None, 0, 2**62])
def test_random_states_are_preserved_and_begin_with_the_seed(seed):
    before = Replay(random_sources(None, CPU))
    with suppress(RuntimeError), preserve_rng_state(CPU, seed):
        first = draws()
        raise RuntimeError
    assert same_states(before)
    with preserve_rng_state(seed=seed):
        assert draws() == first


def test_generators_of_a_model_count_if_it_is_given():
    model = Drawing(random.Random(0))
    x = torch.zeros(1)
    before = Replay(random_sources(model, CPU))
    with preserve_rng_state(CPU, 1, model):
        first = model(x)
    assert same_states(before)
    with preserve_rng_state(CPU, 1, model):
        assert torch.equal(model(x), first)
    with preserve_rng_state(CPU, 2, model):
        assert not torch.equal(model(x), first)


def test_seeded_generators_go_on_as_if_unused():
    own = np.random.default_rng(5)
    expected = np.random.default_rng(5).random()
    with seeded([own, random], seed=0):
        own.random()
    assert own.random() == expected


def test_a_model_runs_without_a_trace():
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2))
    before = Replay(random_sources(model, CPU)), model[1].running_mean.clone()
    with preserve_model(model, CPU, seed=0):
        first = model(torch.ones(5, 2))
        assert not torch.equal(model[1].running_mean, before[1])
    assert same_states(before[0])
    assert torch.equal(model[1].running_mean, before[1])
    with preserve_model(model, CPU, seed=0):
        assert torch.equal(model(torch.ones(5, 2)), first)
