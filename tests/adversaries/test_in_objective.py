"""The objective that an adversary is part of: which images pass through the model, and what the terms are."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg import FisherRaoPenalty, JacobianPenalty, SensitivityPenalty
from art_sensreg.adversaries import NFGSM, PGD, TRADES, CarriedAdversary
from art_sensreg.adversaries.iterative import divergence
from art_sensreg.adversaries.visits import Visit
from art_sensreg.objectives import Objective
from art_sensreg.penalties.inputs import Share
from art_sensreg.penalties.sensitivity import layer_sensitivity
from art_sensreg.training.numerics.step_module import StepModule
from tests.adversaries.helpers import LOSS, SR_JR, draw_batch, small_net


class Counting(nn.Module):
    """Counts the rows of the passes in training mode: those of the objective itself."""

    def __init__(self, model):
        super().__init__()
        self.model, self.rows = model, 0

    def forward(self, x):
        self.rows += len(x) * self.training
        return self.model(x)


def measured(penalties, adversary, share=None, model=None):
    x, y = draw_batch()
    model = Counting(model or small_net()).train()
    objective = Objective(penalties, LOSS, adversary=adversary)
    objective.prepare(model, x)
    model.rows = 0
    arguments = () if share is None else (share,)
    terms, logits = objective(model, x, y, torch.Generator().manual_seed(0), *arguments)
    perturbed = adversary.perturb(model, x, y, LOSS, torch.Generator().manual_seed(0))
    return {name: value.item() for name, value in terms.items()}, logits, perturbed, model, objective


@pytest.mark.parametrize(
    ("penalties", "adversary", "branches"),
    [
        ([], PGD(eps=0.1), 1),
        ([], PGD(eps=0.1, clean_fraction=0.5), 2),
        ([], TRADES(eps=0.1), 2),
        (SR_JR, PGD(eps=0.1), 3),
        (SR_JR, PGD(eps=0.1, clean_fraction=0.5), 3),
        (SR_JR, PGD(eps=0.1, pair="adversarial"), 2),
        (SR_JR, PGD(eps=0.1, pair="adversarial", clean_fraction=0.5), 2),
        (SR_JR, TRADES(eps=0.1, pair="adversarial"), 2),
        ([JacobianPenalty(estimator="projection")], NFGSM(eps=0.1), 2),
    ],
    ids=repr,
)
def test_how_many_images_pass_through_the_model_in_a_step(penalties, adversary, branches):
    """The adversarial pair costs no further rows."""
    _, _, _, model, _ = measured(penalties, adversary)
    assert model.rows == 32 * branches


def test_the_base_loss_combines_those_of_clean_and_adversarial_images():
    x, y = draw_batch()
    terms, logits, perturbed, model, _ = measured([], PGD(eps=0.1, clean_fraction=0.25))
    clean, adversarial = LOSS(model(x), y).item(), LOSS(model(perturbed), y).item()
    assert terms["base"] == pytest.approx(0.25 * clean + 0.75 * adversarial, rel=1e-5)
    assert terms["adversarial"] == pytest.approx(adversarial, rel=1e-5)
    assert terms["loss"] == terms["base"]
    assert torch.allclose(logits, model(x), atol=1e-6)
    terms, logits, perturbed, model, _ = measured([], PGD(eps=0.1))
    assert terms["base"] == terms["adversarial"] == pytest.approx(LOSS(model(perturbed), y).item(), rel=1e-5)
    assert torch.allclose(logits, model(perturbed), atol=1e-6)
    terms, logits, perturbed, model, _ = measured([], TRADES(eps=0.1, beta=3.0))
    assert terms["adversarial"] == pytest.approx(divergence(model(x), model(perturbed)).item(), rel=1e-4)
    assert terms["base"] == pytest.approx(LOSS(model(x), y).item() + 3 * terms["adversarial"], rel=1e-5)


def test_penalties_on_the_adversarial_pair():
    adversary = PGD(eps=0.1, pair="adversarial", clean_fraction=0.5)
    x, _ = draw_batch()
    terms, _, perturbed, model, objective = measured(
        [SensitivityPenalty(weight=2.0), JacobianPenalty(weight=3.0)], adversary
    )
    hidden = [model.model[:2](rows) for rows in (perturbed, x)]
    assert terms["sensitivity"] == pytest.approx(layer_sensitivity(*hidden, sigma=0.1).item(), rel=1e-4)
    difference = (model(perturbed) - model(x)).pow(2).sum(1).mean().item() / 0.1**2 / 2
    assert terms["jacobian"] == pytest.approx(difference, rel=1e-4)
    assert terms["loss"] == pytest.approx(terms["base"] + 2 * terms["sensitivity"] + 3 * terms["jacobian"], rel=1e-5)
    assert objective.smallest_sigma == 0.1


def test_penalties_on_noisy_copies_are_those_without_an_adversary():
    x, y = draw_batch()
    model = small_net()
    plain = Objective([SensitivityPenalty(layers="logits")], LOSS)
    plain.prepare(model, x)
    values = []
    for seed in range(300):
        terms, _ = plain(model, x, y, torch.Generator().manual_seed(seed))
        values.append(terms["sensitivity"].item())
    found = measured([SensitivityPenalty(layers="logits")], PGD(eps=0.1))[0]["sensitivity"]
    assert abs(found - np.mean(values)) < 4 * np.std(values)
    fire = measured([FisherRaoPenalty(eps=0.1, eps_step=0.05)], PGD(eps=0.1))[0]
    assert fire["fisher_rao"] > 0


def test_the_jacobian_penalty_alone_on_the_adversarial_pair():
    terms, *_ = measured([JacobianPenalty()], PGD(eps=0.1, pair="adversarial"))
    assert terms["jacobian"] > 0
    with pytest.raises(ValueError, match="shares the noise"):
        Objective([JacobianPenalty()], LOSS, adversary=PGD(eps=0.1))


def test_batch_norm_has_the_statistics_of_the_clean_examples():
    norm = nn.BatchNorm1d(12)
    x, _ = draw_batch()
    measured([], PGD(eps=0.3, clean_fraction=0.5), model=nn.Sequential(norm, nn.Linear(12, 4)))
    assert torch.allclose(norm.running_mean, 0.1 * x.mean(0), atol=1e-6)
    assert int(norm.num_batches_tracked) == 1


@pytest.mark.parametrize("pair", ["noisy", "adversarial"])
def test_penalties_may_be_measured_on_a_share_of_the_batch(pair):
    adversary = PGD(eps=0.1, clean_fraction=0.5, pair=pair)
    terms, _, _, model, _ = measured([SensitivityPenalty()], adversary, Share(noisy_rows=8))
    assert model.rows == (64 if pair == "adversarial" else 72)
    assert terms["sensitivity"] > 0
    terms, _, _, model, _ = measured([SensitivityPenalty()], adversary, Share(noisy_rows=0, noisy_weight=0.0))
    assert model.rows == 64
    assert (terms["sensitivity"] > 0) == (pair == "adversarial")


@pytest.mark.parametrize("adversary", [PGD(eps=0.1), PGD(eps=0.1, clean_fraction=0.5)], ids=repr)
def test_the_logits_returned_depend_on_the_settings_alone(adversary):
    x, _ = draw_batch()
    for share in (Share(), Share(noisy_rows=8), Share(noisy_rows=0, noisy_weight=0.0)):
        _, logits, perturbed, model, _ = measured([SensitivityPenalty()], adversary, share)
        assert torch.allclose(logits, model(x if adversary.clean_fraction else perturbed), atol=1e-5)


def test_small_differences_are_not_taken_in_half_precision():
    model, (x, _) = small_net(), draw_batch()
    fine, coarse = PGD(eps=0.05, norm="l2", pair="adversarial"), PGD(eps=0.5, pair="adversarial")
    for adversary, low in ((fine, False), (coarse, True)):
        objective = Objective([SensitivityPenalty()], LOSS, adversary=adversary)
        objective.prepare(model, x)
        assert (StepModule(model, objective, "bfloat16").low is not None) == low


def test_with_a_free_adversary_noisy_copies_are_of_the_perturbed_images():
    """Two branches, of which the perturbed images are the first: what penalties see is training on them."""
    x, y = draw_batch()
    adversary = CarriedAdversary(eps=0.1, free=True, pair="noisy")
    model = Counting(small_net()).train()
    objective, alone = (Objective(SR_JR, LOSS, adversary=kind) for kind in (adversary, None))
    for each in (objective, alone):
        each.prepare(model, x)
    visit = Visit(adversary.draw_start(x, torch.Generator().manual_seed(1)))
    model.rows = 0
    terms, _ = objective(model, x, y, torch.Generator().manual_seed(0), visit=visit)
    assert model.rows == 64
    expected, _ = alone(model, x + visit.start, y, torch.Generator().manual_seed(0))
    assert terms["loss"].item() == pytest.approx(expected["loss"].item(), rel=1e-6)
    terms["loss"].backward()
    assert visit.leaf.grad.abs().max() > 0


@pytest.mark.parametrize(
    "adversary",
    [PGD(eps=0.1, pair="adversarial"), *(CarriedAdversary(eps=0.1, free=f, pair="adversarial") for f in (False, True))],
    ids=repr,
)
def test_pairs_of_a_part_of_the_batch_need_the_clean_images_of_that_part_only(adversary):
    x, y = draw_batch()
    x, model, seen = x.double(), small_net().double(), []
    start = adversary.draw_start(x, torch.Generator().manual_seed(1))
    objective = Objective(SR_JR, LOSS, adversary=adversary)
    objective.prepare(model, x)
    model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0]) * module.training))

    def done(rows, of):
        visit = Visit(start[:of].clone()) if adversary.carries else None
        seen.clear()
        noise = torch.Generator().manual_seed(0)
        terms, logits = objective(model, x[:of], y[:of], noise, Share(noisy_rows=rows), visit=visit)
        return terms, logits, visit, sum(seen)

    part, logits, visit, rows = done(8, 32)
    alone, *_ = done(None, 8)
    whole, expected, _, whole_rows = done(None, 32)
    none, _, _, none_rows = done(0, 32)
    assert whole_rows - rows == 24
    assert rows - none_rows == 8
    assert logits.shape == expected.shape
    assert torch.allclose(logits, expected, atol=1e-12)
    assert none["sensitivity"] == none["jacobian"] == 0
    for terms in (part, none):
        assert terms["base"].item() == pytest.approx(whole["base"].item(), rel=1e-12)
    if adversary.carries:  # others start at random
        for name in ("sensitivity", "jacobian"):
            assert part[name].item() == pytest.approx(alone[name].item(), rel=1e-9)
    part["loss"].backward()
    if adversary.free:
        assert (visit.leaf.grad.flatten(1).abs().amax(1) > 0).all()
    counts = objective.weights(Share(noisy_rows=8, noisy_weight=0.25))
    assert counts["sensitivity"] == counts["jacobian"] == 0.25


@pytest.mark.parametrize("adversary", [PGD(eps=0.1, pair="adversarial", clean_fraction=0.5), TRADES(eps=0.1)], ids=repr)
def test_where_the_loss_needs_all_clean_images_all_pairs_are_compared(adversary):
    adversary, (x, y), model = replace(adversary, pair="adversarial"), draw_batch(), small_net()
    objective = Objective(SR_JR, LOSS, adversary=adversary)
    objective.prepare(model, x)
    shares = (Share(), Share(noisy_rows=8))
    whole, part = (objective(model, x, y, torch.Generator().manual_seed(0), share)[0] for share in shares)
    assert objective.plan.separable
    for name, value in whole.items():
        assert part[name].item() == pytest.approx(value.item(), rel=1e-6), name
