"""Adversaries against closed forms on linear models; the objective that they are part of; catastrophic overfitting."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg import (
    FisherRaoPenalty,
    JacobianPenalty,
    SensitivityPenalty,
    randomize,
)
from art_sensreg.adversaries import FGSMRS, NFGSM, PGD, TRADES
from art_sensreg.adversaries.iterative import divergence
from art_sensreg.objectives import Objective, Share
from art_sensreg.penalties.sensitivity import layer_sensitivity

LOSS = nn.CrossEntropyLoss()
ALL = [FGSMRS(eps=0.1), NFGSM(eps=0.1), PGD(eps=0.1), PGD(eps=0.5, norm="l2"), TRADES(eps=0.1, max_iter=3)]


def draw_batch(n=32, d=12, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, d, generator=generator), torch.randint(0, classes, (n,), generator=generator)


def small_net(d=12, classes=4, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(d, 16), nn.ReLU(), nn.Linear(16, classes))


@pytest.mark.parametrize("adversary", ALL, ids=repr)
def test_perturbations_keep_to_ball_and_range(adversary):
    x, y = draw_batch()
    bounds = (torch.tensor(0.0), torch.tensor(1.0))
    perturbed = adversary.perturb(small_net(), x, y, LOSS, torch.Generator().manual_seed(0), bounds)
    delta = perturbed - x
    size = delta.norm(dim=1) if adversary.ball == "l2" else delta.abs().amax(1)
    assert size.max() <= adversary.radius + 1e-6
    assert size.max() > 0.5 * adversary.eps
    assert perturbed.min() >= 0
    assert perturbed.max() <= 1
    assert not perturbed.requires_grad


@pytest.mark.parametrize("adversary", ALL, ids=repr)
def test_it_raises_what_it_maximises(adversary):
    x, y = draw_batch()
    model = small_net()
    perturbed = adversary.perturb(model, x, y, LOSS, torch.Generator().manual_seed(0))
    other = x + (perturbed - x)[:, torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(1))]
    with torch.no_grad():
        loss_fn = adversary.get_loss_fn(model, x, y, LOSS)
        assert loss_fn(model(perturbed)) > loss_fn(model(x))
        assert loss_fn(model(perturbed)) > loss_fn(model(other))


def test_two_class_linear_models_have_a_closed_form():
    # The margin of a two-class linear model moves along one direction: the worst case is a corner.
    x, y = draw_batch(classes=2)
    linear = nn.Linear(12, 2)
    away = (linear.weight[1] - linear.weight[0]).detach().sign() * (1 - 2 * y.float())[:, None]
    noise = FGSMRS(eps=0.1).draw_start(x, torch.Generator().manual_seed(0))
    found = FGSMRS(eps=0.1).perturb(linear, x, y, LOSS, torch.Generator().manual_seed(0))
    assert torch.allclose(found, x + (noise + 0.125 * away).clamp(-0.1, 0.1), atol=1e-6)
    assert torch.allclose(PGD(eps=0.1).perturb(linear, x, y, LOSS), x + 0.1 * away, atol=1e-6)
    noise = NFGSM(eps=0.1).draw_start(x, torch.Generator().manual_seed(0))
    found = NFGSM(eps=0.1).perturb(linear, x, y, LOSS, torch.Generator().manual_seed(0))
    assert torch.allclose(found, x + noise + 0.1 * away, atol=1e-6)
    assert 0.15 < noise.abs().max() <= 0.2 + 1e-6
    direction = nn.functional.normalize((linear.weight[1] - linear.weight[0]).detach(), dim=0)
    found = PGD(eps=0.5, eps_step=0.5, norm="l2", max_iter=20).perturb(linear, x, y, LOSS)
    assert torch.allclose(found, x + 0.5 * direction * (1 - 2 * y.float())[:, None], atol=1e-4)


def test_random_starts_fill_the_ball():
    x = torch.zeros(4000, 3)
    start = PGD(eps=0.5, norm="l2").draw_start(x, torch.Generator().manual_seed(0))
    radius = start.norm(dim=1)
    assert radius.max() <= 0.5
    assert radius.mean().item() == pytest.approx(0.25, abs=0.01)
    assert start.mean(0).abs().max() < 0.01
    start = FGSMRS(eps=0.1).draw_start(x, torch.Generator().manual_seed(0))
    assert start.std().item() == pytest.approx(0.1 / math.sqrt(3), rel=0.02)
    assert start.abs().max() <= 0.1 + 1e-6


@pytest.mark.parametrize("adversary", [NFGSM(eps=0.1), PGD(eps=0.5, norm="l2", max_iter=30), PGD(eps=0.1)], ids=repr)
def test_root_mean_square(adversary):
    x, y = draw_batch(n=500, classes=2)
    perturbed = adversary.perturb(nn.Linear(12, 2), x, y, LOSS, torch.Generator().manual_seed(0))
    found = (perturbed - x).pow(2).mean().sqrt().item()
    assert found == pytest.approx(adversary.root_mean_square(x), rel=0.03)


def test_the_model_is_attacked_in_evaluation_mode_and_left_alone():
    model = nn.Sequential(nn.BatchNorm1d(12), nn.Dropout(0.5), nn.Linear(12, 4)).train()
    x, y = draw_batch()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = [adversary.perturb(model, x, y, LOSS, torch.Generator().manual_seed(0)) for adversary in ALL]
    again = [adversary.perturb(model, x, y, LOSS, torch.Generator().manual_seed(0)) for adversary in ALL]
    assert all(map(torch.equal, first, again))  # dropout was off
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_divergence_against_a_sum():
    first, second = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
    p, q = torch.softmax(first, 1), torch.softmax(second, 1)
    assert divergence(first, second).item() == pytest.approx((p * (p / q).log()).sum(1).mean().item(), rel=1e-12)


# --- the objective ----------------------------------------------------------------------------------------------------


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


SR_JR = [SensitivityPenalty(), JacobianPenalty()]


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
def test_rows_of_a_step(penalties, adversary, branches):
    """The adversarial pair costs no further rows."""
    _, _, _, model, _ = measured(penalties, adversary)
    assert model.rows == 32 * branches


def test_base_terms():
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
    terms = [measured([SensitivityPenalty(layers="logits")], PGD(eps=0.1))[0]["sensitivity"] for _ in range(1)]
    assert abs(terms[0] - np.mean(values)) < 4 * np.std(values)
    fire = measured([FisherRaoPenalty(eps=0.1, eps_step=0.05)], PGD(eps=0.1))[0]
    assert fire["fisher_rao"] > 0


def test_the_jacobian_penalty_alone_on_the_adversarial_pair():
    terms, *_ = measured([JacobianPenalty()], PGD(eps=0.1, pair="adversarial"))
    assert terms["jacobian"] > 0
    with pytest.raises(ValueError, match="shares the noise"):
        Objective([JacobianPenalty()], LOSS, adversary=PGD(eps=0.1))


def test_batch_norm_has_the_statistics_of_the_clean_rows():
    norm = nn.BatchNorm1d(12)
    x, _ = draw_batch()
    measured([], PGD(eps=0.3, clean_fraction=0.5), model=nn.Sequential(norm, nn.Linear(12, 4)))
    assert torch.allclose(norm.running_mean, 0.1 * x.mean(0), atol=1e-6)
    assert int(norm.num_batches_tracked) == 1


@pytest.mark.parametrize("pair", ["noisy", "adversarial"])
def test_a_share_of_the_rows(pair):
    adversary = PGD(eps=0.1, clean_fraction=0.5, pair=pair)
    terms, _, _, model, _ = measured([SensitivityPenalty()], adversary, Share(noisy_rows=8))
    assert model.rows == (64 if pair == "adversarial" else 72)
    assert terms["sensitivity"] > 0
    terms, _, _, model, _ = measured([SensitivityPenalty()], adversary, Share(noisy_rows=0, noisy_weight=0.0))
    assert model.rows == 64
    assert (terms["sensitivity"] > 0) == (pair == "adversarial")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PGD(eps=0.0), "`eps` is 0.0"),
        (lambda: PGD(eps=0.1, max_iter=0), "`max_iter` is 0"),
        (lambda: PGD(eps=0.1, norm="l1"), "`norm` is 'l1'"),
        (lambda: PGD(eps=0.1, clean_fraction=1.0), "`clean_fraction` is 1.0"),
        (lambda: PGD(eps=0.1, pair="both"), "`pair` is 'both'"),
        (lambda: FGSMRS(eps=0.1, eps_step=-1.0), "`eps_step` is -1.0"),
        (lambda: NFGSM(eps=0.1, noise=-1.0), "`noise` is -1.0"),
        (lambda: TRADES(eps=0.1, beta=0.0), "`beta` is 0.0"),
        (lambda: TRADES(eps=0.1, clean_fraction=0.5), "`clean_fraction` is 0.5"),
    ],
)
def test_settings_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("adversary", ALL, ids=repr)
def test_repr_is_the_call(adversary):
    assert eval(repr(adversary)) == adversary


@pytest.mark.parametrize("adversary", [PGD(eps=0.1), PGD(eps=0.1, clean_fraction=0.5)], ids=repr)
def test_the_logits_returned_depend_on_the_settings_alone(adversary):
    x, _ = draw_batch()
    for share in (Share(), Share(noisy_rows=8), Share(noisy_rows=0, noisy_weight=0.0)):
        _, logits, perturbed, model, _ = measured([SensitivityPenalty()], adversary, share)
        assert torch.allclose(logits, model(x if adversary.clean_fraction else perturbed), atol=1e-5)


def test_small_differences_are_not_taken_in_half_precision():
    from art_sensreg.training.steps import StepModule

    model, (x, _) = small_net(), draw_batch()
    fine, coarse = PGD(eps=1.0, norm="l2", pair="adversarial"), PGD(eps=0.5, pair="adversarial")
    for adversary, low in ((fine, False), (coarse, True)):
        objective = Objective([SensitivityPenalty()], LOSS, adversary=adversary)
        objective.prepare(model, x)
        assert (StepModule(model, objective, "bfloat16").low is not None) == low


def test_models_that_average_are_attacked_by_single_draws_in_training():
    from art_sensreg.attacks import EOT

    x, y = draw_batch()
    model = EOT(Counting(randomize(small_net(), kind="rse")).eval(), samples=16).eval()
    rows = []
    model.model.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    PGD(eps=0.1, max_iter=3).perturb(model, x, y, LOSS)
    assert rows == [32, 32, 32]
