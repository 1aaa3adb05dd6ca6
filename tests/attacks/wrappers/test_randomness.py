import gc
import random
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from art_sensreg.attacks.wrappers.eot import EOT
from tests.attacks.random_models import Function, Random


def resized(x, size, places):
    small = F.interpolate(x, size=(size, size))
    free = x.shape[-1] - size
    rows = [
        F.pad(row, (left, free - left, top, free - top)) for row, (left, top) in zip(small, places(free), strict=True)
    ]
    return torch.stack(rows)


def one_size(x):
    size = int(torch.randint(4, 8, ()))
    return resized(x, size, lambda free: [(free // 2, free // 2)] * len(x)).flatten(1)


def one_size_many_places(x):
    size = random.randint(4, 7)
    return resized(x, size, lambda free: np.random.randint(0, free + 1, (len(x), 2)).tolist()).flatten(1)


def one_scale(x):
    return x.flatten(1) + 2 * torch.rand(()) * torch.randn(len(x), x[0].numel())


IMAGES = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
SHARED = {
    "weights": Random(weights=0.1, features=64),
    "rows and weights": Random(rows=0.3, weights=0.05, features=64),
    "one size": Function(one_size),
    "one size, many places": Function(one_size_many_places),
    "one scale": Function(one_scale),
    "one mask": Function(lambda x: x.flatten(1) * (torch.rand(64) > 0.5)),
    "nothing random": Random(features=64),
    "pairs of rows": Function(
        lambda x: x.flatten(1) + torch.randn(-(-len(x) // 8), 64).repeat_interleave(8, 0)[: len(x)]
    ),
}
ROWS = {
    "rows": Random(rows=0.3, features=64),
    "dropout": Function(lambda x: F.dropout(x, 0.3).flatten(1).cumsum(1)),
    "numpy": Function(lambda x: x.flatten(1) + torch.from_numpy(np.random.rand(len(x), 64)).to(x)),
    "heavy tails": Function(lambda x: x.flatten(1) + torch.randn(len(x), 64) / torch.rand(len(x), 64)),
    "seldom": Function(lambda x: x.flatten(1) * (torch.rand(len(x), 1) > 0.02)),
}


@pytest.mark.parametrize("name", SHARED)
def test_shared_noise_is_recognised(name):
    for x in (IMAGES, IMAGES[:1], torch.zeros_like(IMAGES[:1])):  # a black image hides noise on weights
        plan = EOT(SHARED[name]).eval().plan(x)
        assert (plan.samples, plan.images) == (1, len(x))


@pytest.mark.parametrize("name", ROWS)
def test_independent_noise_is_recognised(name):
    assert EOT(ROWS[name]).eval().plan(IMAGES).samples == 16


def test_measuring_leaves_no_trace():
    model = Random(rows=0.1, features=64)
    model.generator = torch.Generator().manual_seed(3)
    model.other = np.random.default_rng(3)
    norm = nn.BatchNorm1d(64).train()
    asked = []  # kept outside the model, whose own records are restored

    def draw(x):
        asked.append(len(x))
        return model(norm(x.flatten(1)) + torch.rand(1, generator=model.generator) + model.other.random())

    noisy = Function(draw)
    noisy.inner, noisy.norm = model, norm
    eot = EOT(noisy).eval()
    norm.train()
    states = [
        torch.get_rng_state,
        random.getstate,
        lambda: np.random.get_state()[1].tolist(),
        model.generator.get_state,
        lambda: model.other.bit_generator.state,
        lambda: [module.training for module in eot.modules()],
        lambda: [buffer.tolist() for buffer in norm.buffers()],
        lambda: [parameter.grad for parameter in eot.parameters()],
    ]
    before = [state() for state in states]
    eot.plan(IMAGES)
    assert len(asked) > 10
    after = [state() for state in states]
    assert all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(before, after, strict=True))


def test_what_is_measured_is_measured_once_and_again_after_training():
    model = Random(rows=0.3)
    x = torch.rand(5, 4)
    eot = EOT(model, samples=4).eval()
    eot(x)
    measured = len(model.calls)
    eot(x)
    assert len(model.calls) == measured + 1
    with torch.no_grad():
        eot.train()
        model.weights.fill_(1.0)
    assert eot.eval().plan(x).samples == 1
    eot.load_state_dict(Random(rows=0.3).state_dict(prefix="model."))
    assert eot.plan(x).samples == 4


def test_memory_of_an_example_is_measured():
    model = nn.Sequential(nn.Linear(10, 500), nn.Tanh(), nn.Linear(500, 2))
    eot = EOT(model, 8, noise="rows", memory=100 * 4 * (10 + 500)).eval()
    assert (eot.plan(torch.rand(10, 10)).samples, eot.plan(torch.rand(200, 10)).images) == (8, 100)
    assert eot.plan(torch.rand(40, 10)).samples == 2
    weights = EOT(Random(weights=0.1, features=1000, classes=100), 8, memory=10**6).eval()
    assert weights.plan(torch.rand(2, 1000)).recompute  # 8 times the noisy weights are more than that


def test_measuring_frees_the_graphs():
    outputs = []

    def tanh(x):
        outputs.append(torch.tanh(x))
        return outputs[-1]

    EOT(Function(tanh), 8, noise="rows").eval().plan(torch.rand(3, 4))
    alive = [weakref.ref(output) for output in outputs]
    outputs.clear()
    assert len(alive) > 2
    gc.collect()
    assert not any(reference() is not None for reference in alive)
