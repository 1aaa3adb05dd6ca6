"""The perturbed images of a batch, which leave the model as it was."""

import pytest
import torch
from torch import nn

from art_sensreg.adversaries import PGD, CarriedAdversary
from art_sensreg.adversaries.attacked_batch import AttackedBatch, perturbed_images
from art_sensreg.penalties.forward.branches import NO_PLAN
from tests.adversaries.helpers import LOSS, draw_batch


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4))


@pytest.mark.parametrize("adversary", [PGD(eps=0.1, max_iter=3), CarriedAdversary(eps=0.1)], ids=repr)
def test_steps_begin_where_the_batch_says(adversary):
    x, y = draw_batch()
    model = net()
    start = torch.full_like(x, 0.05)
    found = perturbed_images(model, adversary, AttackedBatch(x, start, y, LOSS), NO_PLAN)
    assert torch.equal(found, adversary.perturb_from(model, x, start, y, LOSS))


def test_without_a_start_the_adversary_draws_one():
    x, y = draw_batch()
    model, adversary = net(), PGD(eps=0.1, max_iter=3)
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    found = perturbed_images(model, adversary, AttackedBatch(x, None, y, LOSS, generator=generators[0]), NO_PLAN)
    assert torch.equal(found, adversary.perturb(model, x, y, LOSS, generators[1]))


def test_the_model_stays_as_it_was():
    x, y = draw_batch()
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    perturbed_images(model, PGD(eps=0.1), AttackedBatch(x, torch.zeros_like(x), y, LOSS), NO_PLAN)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
