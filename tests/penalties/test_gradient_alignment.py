"""GradAlign against its formula image by image; noise, processes and resumed runs."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from art_sensreg.adversaries import NFGSM
from art_sensreg.objectives import Objective
from art_sensreg.penalties import GradientAlignmentPenalty, GradientNormPenalty
from art_sensreg.penalties.forward.noise import Probes
from tests.adversaries.helpers import prototypes, trainer_of
from tests.penalties.helpers import batch, built, by_weights, generator
from tests.training.helpers import StopAfter

PENALTY = GradientAlignmentPenalty(weight=0.5, eps=0.3)


def network():
    return built(lambda: nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))).double()


def test_it_is_one_minus_the_cosine_of_the_gradients_at_two_points():
    x, y = batch()
    model, x = network(), x.double()
    found = PENALTY(model, x, y, generator()).item()
    near = x + (torch.rand(x.shape, dtype=x.dtype, generator=generator()) * 2 - 1) * 0.3
    cosines = []
    for first, second, label in zip(x, near, y, strict=True):
        gradients = []
        for image in (first, second):
            leaf = image[None].clone().requires_grad_()
            F.cross_entropy(model(leaf), label[None]).backward()
            gradients.append(leaf.grad[0])
        cosines.append(F.cosine_similarity(*gradients, dim=0))
    assert found == pytest.approx(1 - torch.stack(cosines).mean().item(), rel=1e-10)


def test_its_gradient_in_the_weights():
    x, y = batch(5)
    value, leaves = by_weights(network(), lambda model: PENALTY(model, x.double(), y, generator()))
    assert torch.autograd.gradcheck(value, leaves, fast_mode=True)


def test_both_gradients_see_the_same_dropout():
    x, y = batch()
    linear = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 2)).train()  # its gradients have one direction everywhere
    assert PENALTY(linear, x, y % 2).item() < 1e-6


def test_where_a_gradient_is_zero_an_image_counts_as_aligned():
    x, y = batch()
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        model[0].bias.fill_(-100)
    value = PENALTY(model, x, y)
    value.backward()
    assert value.item() == 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_in_training_its_noise_is_that_of_the_step_however_many_processes_there_are():
    x, y = batch()
    model, x = network(), x.double()
    objective = Objective([PENALTY], adversary=NFGSM(eps=0.3, noise=0.0))
    objective.prepare(model, x)
    probes = Probes(0, torch.device("cpu"))
    whole = objective(model, x, y, probes.at(3))[0]["gradient_alignment"]
    parts = [objective(model, x[r::2], y[r::2], probes.at(3, r, 2))[0]["gradient_alignment"] for r in (0, 1)]
    assert torch.stack(parts).mean().item() == pytest.approx(whole.item(), rel=1e-12)


@pytest.mark.parametrize("penalty", [PENALTY, GradientNormPenalty(weight=0.1)], ids=lambda penalty: penalty.name)
def test_a_resumed_run_is_the_same(tmp_path, penalty):
    x, y = prototypes(96)
    weights = []
    for folder, stop in ((None, ()), (tmp_path, [StopAfter(4)]), (tmp_path, ())):
        trainer = trainer_of(NFGSM(eps=0.1, noise=0.0), [penalty], callbacks=stop, on_catastrophic_overfitting="ignore")
        resume = folder is not None
        trainer.fit(x, y, nb_epochs=2, batch_size=32, checkpoint_dir=folder, resume=resume, verbose=False)
        weights.append(torch.cat([p.detach().flatten() for p in trainer.get_classifier().model.parameters()]))
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[1])
    assert trainer.history[-1][penalty.name] > 0
