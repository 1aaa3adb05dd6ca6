"""NuAT against its two equations, written with numpy's nuclear norm and plain autograd."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from art_sensreg import SensitivityPenalty
from art_sensreg.adversaries import NuAT
from art_sensreg.objectives import Objective
from art_sensreg.training.numerics.micro_batches import examples_at_once
from tests.adversaries.helpers import LOSS, SR_JR, draw_batch, prototypes, small_net, trainer_of
from tests.training.helpers import StopAfter


def test_the_loss_is_the_clean_one_plus_the_nuclear_norm_over_the_batch():
    (x, y), adversary = draw_batch(), NuAT(eps=0.1, weight=2.0)
    model, x = small_net().double(), x.double()
    objective = Objective(base_loss=LOSS, adversary=adversary)
    objective.prepare(model, x)
    terms, logits = objective(model, x, y, torch.Generator().manual_seed(0))
    perturbed = adversary.perturb(model, x, y, LOSS, torch.Generator().manual_seed(0))
    difference = (model(perturbed) - model(x)).detach().numpy()
    part = np.linalg.norm(difference, ord="nuc") / len(x)
    assert terms["adversarial"].item() == pytest.approx(part, rel=1e-10)
    assert terms["loss"].item() == pytest.approx(LOSS(model(x), y).item() + 2 * part, rel=1e-10)
    assert torch.equal(logits, model(x))
    objective.strength = 0.25  # of the weight, in the step too
    terms, _ = objective(model, x, y, torch.Generator().manual_seed(0))
    weaker = NuAT(eps=0.1, weight=0.5).perturb(model, x, y, LOSS, torch.Generator().manual_seed(0))
    part = np.linalg.norm((model(weaker) - model(x)).detach().numpy(), ord="nuc") / len(x)
    assert terms["loss"].item() == pytest.approx(LOSS(model(x), y).item() + 0.5 * part, rel=1e-10)


def test_the_step_raises_the_loss_plus_the_nuclear_norm_from_signs():
    (x, y), adversary = draw_batch(), NuAT(eps=0.1, weight=2.0)
    model, x = small_net().double(), x.double()
    bounds = (torch.tensor(0.0), torch.tensor(1.0))
    found = adversary.perturb(model, x, y, LOSS, torch.Generator().manual_seed(0), bounds)
    signs = torch.randint(0, 2, x.shape, dtype=torch.int8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    start = (x + 0.05 * signs).clamp(0, 1).requires_grad_()
    logits = model(start)
    u, _, v = np.linalg.svd((logits - model(x)).detach().numpy(), full_matrices=False)
    (by_loss,) = torch.autograd.grad(F.cross_entropy(logits, y), start, retain_graph=True)
    (by_norm,) = torch.autograd.grad((logits * torch.from_numpy(u @ v)).sum() / len(x), start)  # U V^T is its gradient
    moved = start.detach() + 0.1 * (by_loss + 2 * by_norm).sign()
    assert torch.allclose(found, (x + (moved - x).clamp(-0.1, 0.1)).clamp(0, 1), atol=1e-10)


def test_a_batch_is_not_divided():
    x, y = prototypes(64)
    trainer = trainer_of(NuAT(eps=0.1), accumulate=2)
    with pytest.raises(ValueError, match=r"`adversary` is NuAT\(.*whole batch at once; expected"):
        trainer.fit(x, y, nb_epochs=1, batch_size=32, verbose=False)
    objective = Objective([SensitivityPenalty()], adversary=NuAT(eps=0.1))
    objective.prepare(small_net(), torch.from_numpy(x))
    assert examples_at_once(objective, 10**6) is None


def test_a_resumed_run_is_the_same_while_the_weight_rises(tmp_path):
    x, y = prototypes(96)
    weights = []
    for folder, stop in ((None, ()), (tmp_path, [StopAfter(4)]), (tmp_path, ())):
        trainer = trainer_of(NuAT(eps=0.1), callbacks=stop, penalty_warmup=0.9)
        trainer.fit(x, y, nb_epochs=2, batch_size=32, checkpoint_dir=folder, resume=folder is not None, verbose=False)
        weights.append(torch.cat([p.detach().flatten() for p in trainer.get_classifier().model.parameters()]))
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[1])


def test_pairs_of_a_part_are_attacked_as_the_whole_batch_is():
    x, y = prototypes(64)
    weights = []
    for fraction in (1.0, 0.5):
        trainer = trainer_of(NuAT(eps=0.1, pair="start"), SR_JR, penalty_fraction=fraction)
        trainer.fit(x, y, nb_epochs=1, batch_size=32, verbose=False)
        weights.append(torch.cat([p.detach().flatten() for p in trainer.get_classifier().model.parameters()]))
    assert torch.equal(*weights)
