"""The memory of perturbations, and a visit."""

import logging

import pytest
import torch

from art_sensreg.adversaries import CarriedAdversary
from art_sensreg.adversaries.visits import PerturbationMemory, Visit


def memory(norm="linf", count=6, seed=0):
    return PerturbationMemory(CarriedAdversary(eps=0.3, norm=norm), count, torch.zeros(1, 2, 3), seed)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_what_is_written_is_read_to_half_a_level(norm):
    kept = memory(norm)
    perturbations = torch.rand(3, 2, 3, generator=torch.Generator().manual_seed(1)) * 0.2 - 0.1
    before = kept.read(torch.tensor([0, 2, 5]))
    kept.write(torch.tensor([4, 1, 3]), perturbations)
    assert (kept.read(torch.tensor([4, 1, 3])) - perturbations).abs().max() <= 0.3 / 254 + 1e-6
    assert torch.equal(kept.read(torch.tensor([0, 2, 5])), before)
    assert kept.levels.nbytes == 6 * 6


@pytest.mark.parametrize(("norm", "finest"), [("linf", 254), ("l2", 40)])
@pytest.mark.parametrize("size", [30, 784])
def test_the_smallest_steps_that_are_taken_arrive(norm, finest, size):
    adversary = CarriedAdversary(eps=1.0, eps_step=1 / finest * 1.001, norm=norm)
    kept, x, every = PerturbationMemory(adversary, 4, torch.zeros(1, size), 0), torch.zeros(4, size), torch.arange(4)
    gradient = torch.randn(4, size, generator=torch.Generator().manual_seed(1))
    for _ in range(4 * finest):
        kept.write(every, adversary.ascent(None).move(x, x + kept.read(every), gradient) - x)
    goal = gradient.sign() if norm == "linf" else gradient
    assert torch.cosine_similarity(kept.read(every), goal, dim=1).min() > 0.8


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_first_perturbations_depend_on_the_seed_and_lie_in_the_ball(norm):
    every = torch.arange(6)
    first, again, other = memory(norm).read(every), memory(norm).read(every), memory(norm, seed=1).read(every)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    size = first.abs().max() if norm == "linf" else first.flatten(1).norm(dim=1).max()
    assert 0.1 < size <= 0.3 * 1.01


def test_the_extremes_and_zero_are_kept_exactly():
    kept = memory()
    perturbations = torch.tensor([0.3, -0.3, 0.0, 0.31, -0.5, 0.15]).view(1, 2, 3)
    kept.write(torch.tensor([0]), perturbations)
    assert kept.levels[0].flatten().tolist()[:5] == [127, -127, 0, 127, -127]


def test_the_state_is_restored_and_that_of_other_images_refused():
    kept, other = memory("l2"), memory("l2", seed=1)
    other.load_state_dict(kept.state_dict())
    assert torch.equal(other.read(torch.arange(6)), kept.read(torch.arange(6)))
    with pytest.raises(ValueError, match=r"perturbations of shape \(5, 2, 3\); expected \(6, 2, 3\)"):
        kept.load_state_dict(memory("l2", count=5).state_dict())


def test_a_free_visit_ends_one_step_along_the_gradient_of_the_loss():
    adversary, x = CarriedAdversary(eps=0.3, eps_step=0.1, free=True), torch.full((2, 3), 0.5)
    visit = Visit(torch.full((2, 3), 0.25))
    images = visit.begin(adversary, x, None)
    (images[0] * torch.tensor([1.0, -1.0, 0.0])).sum().backward()
    moved = visit.finish(adversary, x, None)
    assert torch.allclose(moved, torch.tensor([[0.3, 0.15, 0.25], [0.25, 0.25, 0.25]]))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_image_whose_gradient_overflowed_keeps_its_perturbation(norm):
    adversary, x = CarriedAdversary(eps=0.9, norm=norm, free=True), torch.full((3, 3), 0.5)
    visit = Visit(torch.full((3, 3), 0.25))
    images = visit.begin(adversary, x, None)
    images.backward(torch.tensor([[1.0, 1.0, 1.0], [1.0, torch.inf, 1.0], [1.0, 1.0, torch.nan]]))
    moved = visit.finish(adversary, x, None)
    assert (moved[0] > 0.25).all()
    assert torch.equal(moved[1:], torch.full((2, 3), 0.25))


def test_a_visit_without_a_gradient_ends_where_it_began():
    visit = Visit(torch.full((2, 3), 0.25))
    assert torch.equal(visit.finish(CarriedAdversary(eps=0.3), torch.zeros(2, 3), None), visit.start)


@pytest.mark.parametrize(
    ("indices", "warned"), [(range(12), False), ([*range(4)] * 3, True), ([0, 1, 2, 3, 4, 5, 6, 6, 6, 6, 6, 6], False)]
)
def test_indices_that_name_few_images_are_warned_about_once(indices, warned, caplog):
    memory = PerturbationMemory(CarriedAdversary(eps=0.1), 12, torch.zeros(1, 3), seed=0)
    memory.write(torch.tensor(indices), torch.zeros(12, 3))
    with caplog.at_level(logging.WARNING, logger="art_sensreg"):
        memory.check_visits()
        memory.check_visits()
    assert len(caplog.records) == warned
    assert not warned or "name 4 images in an epoch of 12 examples" in caplog.text
