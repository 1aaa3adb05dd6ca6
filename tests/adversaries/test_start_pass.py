"""The pair of start and end: the penalties and their gradients, against the formulas written out."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from art_sensreg import JacobianPenalty, SensitivityPenalty
from art_sensreg.adversaries import FGSMRS, NFGSM, PGD, TRADES, CarriedAdversary, NuAT
from art_sensreg.adversaries.iterative import divergence
from art_sensreg.adversaries.visits import Visit
from art_sensreg.objectives import Objective
from art_sensreg.penalties.inputs import Share
from tests.adversaries.helpers import LOSS, draw_batch

PENALTIES = [SensitivityPenalty(weight=0.3), JacobianPenalty(weight=0.03)]
ONE_STEP = [
    CarriedAdversary(eps=0.1),
    CarriedAdversary(eps=0.5, norm="l2"),
    FGSMRS(eps=0.1, pair="start"),
    NFGSM(eps=0.1, pair="start"),
    PGD(eps=0.1, max_iter=1, pair="start"),
]


def net(norm=False, seed=0):
    torch.manual_seed(seed)
    layers = [nn.Linear(12, 16), *([nn.BatchNorm1d(16)] if norm else []), nn.Tanh(), nn.Linear(16, 8), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(8, 4)).double()


def batch():
    x, y = draw_batch()
    return x.double(), y


def objective_of(model, x, adversary, penalties=PENALTIES, bounds=None):
    objective = Objective(penalties, LOSS, bounds, adversary)
    model.train()
    objective.prepare(model, x)
    return objective


def activations(model, x):
    """Of both hidden layers, and logits."""
    found = []
    for layer in model:
        x = layer(x)
        if isinstance(layer, nn.Tanh):
            found.append(x)
    return found, x


def by_hand(model, x, y, start, adversary, bounds):
    """Loss and penalties from the definition, with plain autograd; BatchNorm by hand is the caller's."""
    ascent = adversary.ascent(bounds)
    first = ascent.project(x, x + start).detach().requires_grad_(True)
    at_start, logits = activations(model, first)
    (gradient,) = torch.autograd.grad(LOSS(logits, y), first, retain_graph=True)
    last = ascent.move(x, first.detach(), gradient)
    at_end, end_logits = activations(model, last)
    size = adversary.pair_size(x)
    sr = sum((b - a).pow(2).mean() for a, b in zip(at_start, at_end, strict=True)) / 2 / size**2
    jr = (end_logits - logits).pow(2).sum(1).mean() / 2 / size**2
    return LOSS(end_logits, y) + 0.3 * sr + 0.03 * jr, sr, jr, last


@pytest.mark.parametrize("adversary", ONE_STEP, ids=repr)
@pytest.mark.parametrize("clipped", [False, True])
def test_value_and_gradient_are_those_of_the_definition(adversary, clipped):
    x, y = batch()
    bounds = (torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)) if clipped else None
    start = adversary.draw_start(x, torch.Generator().manual_seed(1))
    results = []
    for _ in range(2):
        model = net()
        if results:
            loss, sr, jr, perturbed = by_hand(model, x, y, start, adversary, bounds)
        else:
            visit = Visit(start)
            terms, _ = objective_of(model, x, adversary, bounds=bounds)(model, x, y, visit=visit)
            loss, sr, jr, perturbed = terms["loss"], terms["sensitivity"], terms["jacobian"], x + visit.moved
        loss.backward()
        results.append([loss, sr, jr, perturbed, *(p.grad for p in model.parameters())])
    for ours, expected in zip(*results, strict=True):
        assert torch.allclose(ours, expected, rtol=1e-9, atol=1e-12)


def test_gradients_flow_through_both_ends():
    """With the start detached the gradient would be another one."""
    x, y = batch()
    adversary, model = CarriedAdversary(eps=0.1), net()
    visit = Visit(torch.zeros_like(x))
    terms, _ = objective_of(model, x, adversary)(model, x, y, visit=visit)
    (ours,) = torch.autograd.grad(terms["jacobian"], model[-1].weight)
    (_, a), (_, b) = activations(model, x), activations(model, x + visit.moved)
    one_ended = (b - a.detach()).pow(2).sum(1).mean() / 2 / adversary.step**2
    (detached,) = torch.autograd.grad(one_ended, model[-1].weight)
    assert not torch.allclose(ours, detached, rtol=0.1)


def test_batch_norm_normalises_both_ends_with_the_statistics_of_the_start():
    x, y = batch()
    adversary, model = CarriedAdversary(eps=0.1), net(norm=True)
    start = adversary.draw_start(x, torch.Generator().manual_seed(1))
    objective = objective_of(model, x, adversary)
    before = model[1].running_mean.clone()
    visit = Visit(start)
    terms, logits = objective(model, x, y, visit=visit)
    hidden = model[0](x + start)
    mean, variance = hidden.mean(0), hidden.var(0, unbiased=False)

    def fixed(inputs):
        normal = (model[0](inputs) - mean) * torch.rsqrt(variance + model[1].eps)
        return model[2:](normal * model[1].weight + model[1].bias)

    assert torch.allclose(logits, fixed(x + visit.moved))
    expected = (fixed(x + visit.moved) - fixed(x + start)).pow(2).sum(1).mean() / 2 / adversary.step**2
    assert terms["jacobian"].item() == pytest.approx(expected.item(), rel=1e-9)
    assert torch.allclose(model[1].running_mean, 0.9 * before + 0.1 * mean)  # moved once, by the start
    assert model[1].num_batches_tracked == 1


def test_where_the_loss_needs_clean_images_batch_norm_takes_their_statistics():
    x, y = batch()
    model = net(norm=True)
    adversary = CarriedAdversary(eps=0.1, clean_fraction=0.5)
    objective = objective_of(model, x, adversary)
    terms, logits = objective(model, x, y, visit=Visit(torch.zeros_like(x)))
    hidden = model[0](x)
    assert torch.allclose(model[1].running_mean, 0.1 * hidden.mean(0))
    clean = model.eval()(x)
    model.train()
    assert logits.shape == clean.shape
    expected = 0.5 * LOSS(model(x), y) + 0.5 * terms["adversarial"]
    assert terms["base"].item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("adversary", [TRADES(eps=0.1, max_iter=1, pair="start"), NuAT(eps=0.1, pair="start")])
def test_the_first_step_compares_with_clean_logits_of_the_same_statistics(adversary):
    """Logits of evaluation mode would differ from those of the start by more than the perturbation makes them."""
    x, y = batch()
    model = net(norm=True)
    model[1].running_mean.fill_(3.0)
    visit = Visit(adversary.draw_start(x, torch.Generator().manual_seed(1)))
    objective_of(model, x, adversary)(model, x, y, visit=visit)
    hidden = model[0](x)
    mean, variance = hidden.mean(0), hidden.var(0, unbiased=False)

    def fixed(inputs):
        normal = (model[0](inputs) - mean) * torch.rsqrt(variance + model[1].eps)
        return model[2:](normal * model[1].weight + model[1].bias)

    leaf = (x + visit.start).detach().requires_grad_(True)
    clean, logits = fixed(x).detach(), fixed(leaf)
    if isinstance(adversary, TRADES):
        loss = (clean.softmax(1) * (clean.log_softmax(1) - logits.log_softmax(1))).sum(1).mean()
    else:
        loss = LOSS(logits, y) + adversary.weight * torch.linalg.svdvals(logits - clean).sum() / len(x)
    (gradient,) = torch.autograd.grad(loss, leaf)
    expected = (visit.start + adversary.step * gradient.sign()).clamp(-0.1, 0.1)
    assert torch.allclose(visit.moved, expected, atol=1e-12)


def test_trades_from_its_start():
    x, y = batch()
    adversary = TRADES(eps=0.1, max_iter=3, pair="start")
    model = net()
    visit = Visit(adversary.draw_start(x, torch.Generator().manual_seed(1)))
    terms, _ = objective_of(model, x, adversary)(model, x, y, visit=visit)
    perturbed = x + visit.moved
    expected = LOSS(model(x), y) + 6 * divergence(model(x), model(perturbed))
    assert terms["base"].item() == pytest.approx(expected.item(), rel=1e-9)
    (_, a), (_, b) = activations(model, x + visit.start), activations(model, perturbed)
    assert terms["jacobian"].item() == pytest.approx((b - a).pow(2).sum(1).mean().item() / 2 / 0.1**2, rel=1e-9)


def test_many_steps_are_those_of_the_attack_alone():
    x, y = batch()
    adversary = PGD(eps=0.1, max_iter=5, pair="start")
    model = net()
    start = adversary.draw_start(x, torch.Generator().manual_seed(1))
    visit = Visit(start)
    objective_of(model, x, adversary)(model, x, y, visit=visit)
    alone = adversary.perturb_from(model, x, start, y, LOSS)
    assert torch.allclose(x + visit.moved, alone)


@pytest.mark.parametrize(
    ("adversary", "size"),
    [
        (CarriedAdversary(eps=0.2), 0.1),
        (FGSMRS(eps=0.2, pair="start"), 0.25),
        (NFGSM(eps=0.2, pair="start"), 0.2),
        (PGD(eps=0.2, max_iter=10, pair="start"), 0.4),  # from one end of the ball to the other
        (TRADES(eps=0.2, pair="start"), 0.2),  # from the middle
        (CarriedAdversary(eps=0.2, norm="l2"), 0.1 / 12**0.5),
        (CarriedAdversary(eps=0.2, pair="adversarial"), 0.2),
    ],
    ids=repr,
)
def test_differences_are_divided_by_the_largest_that_they_can_be(adversary, size):
    assert adversary.pair_size(torch.zeros(2, 12)) == pytest.approx(size)


def test_dropout_has_the_same_masks_at_both_ends():
    x, y = batch()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 64), nn.Tanh(), nn.Dropout(0.5), nn.Linear(64, 4)).double()
    model[0].weight.data.mul_(1e-6)  # what differs between the ends would be the masks alone
    terms, _ = objective_of(model, x, CarriedAdversary(eps=0.1))(model, x, y, visit=Visit(torch.zeros_like(x)))
    assert terms["jacobian"] < 1e-6


def test_a_model_with_activation_checkpointing_trains_alike():
    class Checkpointed(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.first, self.rest = inner[:2], inner[2:]

        def forward(self, x):
            return self.rest(checkpoint(self.first, x, use_reentrant=False))

    x, y = batch()
    gradients = []
    for wrap in (lambda model: model, Checkpointed):
        model = wrap(net())
        terms, _ = objective_of(model, x, CarriedAdversary(eps=0.1))(model, x, y, visit=Visit(torch.zeros_like(x)))
        terms["loss"].backward()
        gradients.append([p.grad for p in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other)


def test_nothing_is_kept_for_gradients_where_none_are_wanted():
    x, y = batch()
    model = net()
    with torch.no_grad():
        terms, logits = objective_of(model, x, CarriedAdversary(eps=0.1))(model, x, y)
    assert not terms["loss"].requires_grad
    assert not logits.requires_grad


def test_a_model_that_works_in_place_sees_its_own_copy():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net()

        def forward(self, x):
            return self.inner(x.mul_(1.0))

    x, y = batch()
    model = InPlace()
    kept = x.clone()
    terms, _ = objective_of(model, x, CarriedAdversary(eps=0.1))(model, x, y, visit=Visit(torch.zeros_like(x)))
    terms["loss"].backward()
    assert torch.equal(x, kept)


def test_of_a_part_of_the_batch_the_penalties_are_those_of_the_part_alone():
    x, y = batch()
    adversary, model = CarriedAdversary(eps=0.1), net()
    start = adversary.draw_start(x, torch.Generator().manual_seed(1))
    objective = objective_of(model, x, adversary)
    visit = Visit(start)
    part, logits = objective(model, x, y, share=Share(noisy_rows=8), visit=visit)
    alone, _ = objective(model, x[:8], y[:8], visit=Visit(start[:8]))
    for name in ("sensitivity", "jacobian"):
        assert part[name].item() == pytest.approx(alone[name].item(), rel=1e-9)
    perturbed = adversary.perturb_from(model, x, start, y, LOSS)
    assert torch.allclose(x + visit.moved, perturbed)
    assert torch.allclose(logits, model(perturbed))
    assert part["base"].item() == pytest.approx(LOSS(model(perturbed), y).item(), rel=1e-9)
    none, _ = objective(model, x, y, share=Share(noisy_rows=0), visit=Visit(start))
    assert none["sensitivity"] == none["jacobian"] == 0
    assert none["base"].item() == pytest.approx(part["base"].item(), rel=1e-9)


def test_batch_norm_couples_the_examples_so_that_all_take_part():
    x, y = batch()
    adversary, model = CarriedAdversary(eps=0.1), net(norm=True)
    objective = objective_of(model, x, adversary)
    whole, _ = objective(model, x, y, visit=Visit(torch.zeros_like(x)))
    part, _ = objective(model, x, y, share=Share(noisy_rows=8), visit=Visit(torch.zeros_like(x)))
    assert part["loss"].item() == pytest.approx(whole["loss"].item(), rel=1e-9)


def test_a_model_that_draws_noise_of_its_own_draws_the_same_at_both_ends():
    """Also after further steps of the attack, which draw too."""

    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(12, 16), nn.Linear(16, 4)

        def forward(self, x):
            hidden = 1e-6 * self.first(x)  # what differs between the ends would be the noise alone
            return self.last(torch.tanh(hidden + torch.randn_like(hidden)))

    x, y = batch()
    torch.manual_seed(0)
    model = Noisy().double()
    adversary = PGD(eps=0.1, max_iter=4, pair="start")
    terms, _ = objective_of(model, x, adversary)(model, x, y, visit=Visit(torch.zeros_like(x)))
    assert terms["jacobian"] < 1e-6


@pytest.mark.parametrize(("norm", "counted"), [(False, 0.25), (True, 1.0)], ids=["alone", "coupled"])
def test_the_penalties_of_a_part_count_as_means_over_the_part(norm, counted):
    x, _ = batch()
    objective = objective_of(net(norm=norm), x, CarriedAdversary(eps=0.1))
    counts = objective.weights(Share(noisy_rows=8, noisy_weight=0.25))
    assert counts["sensitivity"] == counts["jacobian"] == counted
    assert counts["base"] == 1.0
