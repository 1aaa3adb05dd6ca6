"""FIRE against float64 `arccos`, its small-distance limit, and the penalty written out step by step."""

import math

import pytest
import torch
from torch import nn

from art_sensreg import FisherRaoPenalty
from art_sensreg.objectives import Objective
from art_sensreg.penalties.fisher_rao import FIRE_PRESETS, fisher_rao_distance


def reference(logits, others):
    """`2 arccos(sum sqrt(p q))` in float64."""
    p, q = (torch.softmax(z.double(), dim=1) for z in (logits, others))
    return 2 * torch.arccos((p * q).sqrt().sum(1).clamp(max=1.0))


def draw_pairs(n, classes, seed):
    """Random pairs of all kinds: far, near, equal, one-hot and opposite one-hot, with large common offsets."""
    generator = torch.Generator().manual_seed(seed)
    scale = 10 ** (torch.rand(n, 1, generator=generator) * 5 - 2)
    first = torch.randn(n, classes, generator=generator) * scale
    nearness = 10 ** (torch.rand(n, 1, generator=generator) * 8 - 7)
    second = first + torch.randn(n, classes, generator=generator) * nearness
    kind = torch.randint(0, 6, (n, 1), generator=generator)
    hot = 1000.0 * nn.functional.one_hot(torch.randint(0, classes, (n,), generator=generator), classes)
    second = torch.where(kind == 0, first, second)
    first = torch.where(kind >= 4, hot, first)
    second = torch.where(kind == 4, hot, torch.where(kind == 5, hot.roll(1, dims=1), second))
    return first, second


@pytest.mark.parametrize("classes", [2, 10])
def test_a_million_pairs_are_finite_and_right(classes):
    first, second = (z.requires_grad_() for z in draw_pairs(1_000_000, classes, seed=classes))
    distance = fisher_rao_distance(first, second)
    distance.pow(2).sum().backward()
    assert torch.isfinite(distance).all()
    assert torch.isfinite(first.grad).all()
    assert torch.isfinite(second.grad).all()
    assert (distance.detach() - reference(first.detach(), second.detach())).abs().max() < 1e-5
    assert distance.min() >= 0
    assert distance.max() <= math.pi + 1e-6


@pytest.mark.parametrize("classes", [2, 10])
def test_a_million_pairs_in_bfloat16(classes):
    first, second = draw_pairs(1_000_000, classes, seed=classes)
    first, second = (z.bfloat16().requires_grad_() for z in (first, second))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        distance = fisher_rao_distance(first, second)
    assert distance.dtype == torch.float32
    distance.pow(2).sum().backward()
    assert torch.isfinite(first.grad).all()
    assert torch.isfinite(second.grad).all()
    assert (distance.detach() - reference(first.detach(), second.detach())).abs().max() < 1e-5


def test_logits_of_minus_infinity():
    first = torch.log(torch.eye(3)).requires_grad_()
    second = torch.log(torch.eye(3).roll(1, 0))
    distance = fisher_rao_distance(first, second)
    distance.pow(2).sum().backward()
    assert torch.allclose(distance, torch.full((3,), math.pi))
    assert torch.isfinite(first.grad).all()
    assert torch.equal(fisher_rao_distance(second, second), torch.zeros(3))


def test_small_distances_are_twice_the_divergence():
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(200, 5, generator=generator, dtype=torch.float64)
    direction = torch.randn(200, 5, generator=generator, dtype=torch.float64)
    errors = []
    for size in (1e-1, 1e-2, 1e-3):
        second = first + size * direction
        divergence = nn.functional.kl_div(
            torch.log_softmax(second, 1), torch.log_softmax(first, 1), reduction="none", log_target=True
        ).sum(1)
        errors.append(float((fisher_rao_distance(first, second) ** 2 / (2 * divergence) - 1).abs().max()))
    assert errors[2] < 1e-3
    assert errors[1] < errors[0] / 5
    assert errors[2] < errors[1] / 5


def test_gradients_are_those_of_differences():
    first = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    second = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: fisher_rao_distance(a, b).pow(2), (first, second))


def test_equal_logits_have_zero_gradient():
    logits = torch.randn(5, 3, requires_grad=True)
    fisher_rao_distance(logits, logits.detach()).pow(2).sum().backward()
    assert torch.equal(logits.grad, torch.zeros(5, 3))


def step_by_step(model, x, penalty, noise, low, high):
    """The penalty's own algorithm, with `arccos` in float64 and one image at a time."""
    total = 0.0
    for image, start in zip(x, noise, strict=True):
        clean = torch.softmax(model(image[None]), 1).detach()
        moved = (image + 0.001 * start).clamp(image - penalty.eps, image + penalty.eps).clamp(low, high)
        for _ in range(penalty.max_iter):
            moved = moved.detach().requires_grad_()
            distance = 2 * torch.arccos((torch.softmax(model(moved[None]), 1) * clean).sqrt().sum())
            (gradient,) = torch.autograd.grad(distance, moved)
            moved = moved + penalty.eps_step * gradient.sign()
            moved = moved.clamp(image - penalty.eps, image + penalty.eps).clamp(low, high)
        both = torch.softmax(model(torch.stack([image, moved.detach()])), 1)
        total = total + (2 * torch.arccos((both[0] * both[1]).sqrt().sum())) ** 2
    return total / len(x)


def test_against_the_algorithm_written_out():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    x = torch.rand(7, 6, dtype=torch.float64)
    penalty = FisherRaoPenalty(eps=0.1, eps_step=0.03, max_iter=5)
    noise = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(3))
    wanted = step_by_step(model, x, penalty, noise, 0.0, 1.0)
    found = penalty(model, x, generator=torch.Generator().manual_seed(3), clip_values=(0.0, 1.0))
    assert found.item() == pytest.approx(wanted.item(), rel=1e-9)
    # In the outer loss gradients flow through both sides.
    parameters = list(model.parameters())
    for one, other in zip(torch.autograd.grad(found, parameters), torch.autograd.grad(wanted, parameters), strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-9)


def test_more_steps_find_farther_predictions():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 5))
    x = torch.rand(50, 20)
    values = [
        float(FisherRaoPenalty(eps=0.1, eps_step=0.1 / steps * 2, max_iter=steps)(model, x)) for steps in (1, 3, 10)
    ]
    assert values[0] > 0
    assert values[1] > 0.99 * values[0]
    assert values[2] > 0.99 * values[1]


class Recorder(nn.Module):
    """Notes the mode and the inputs of every pass."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2), nn.Dropout(0.5))
        self.passes = []

    def forward(self, x):
        self.passes.append((self.training, x.detach().clone()))
        return self.layers(x)


def test_the_ascent_runs_in_evaluation_mode_and_keeps_to_the_ball():
    torch.manual_seed(0)
    model = Recorder().train()
    x = torch.rand(6, 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    penalty = FisherRaoPenalty(eps=0.2, eps_step=0.1, max_iter=4)
    penalty(model, x, clip_values=(0.0, 1.0)).backward()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert all(module.training for module in model.modules())
    perturbed = [inputs for training, inputs in model.passes if inputs.shape == x.shape and not training]
    assert len(perturbed) >= 5  # the clean side and four steps
    both = model.passes[-1]
    assert both[0]
    assert both[1].shape == (12, 3)
    assert (both[1][6:] - x).abs().max() <= 0.2 + 1e-6
    assert both[1].min() >= 0
    assert both[1].max() <= 1


def test_both_conventions_of_the_weight():
    first, second = torch.randn(10, 4), torch.randn(10, 4)
    authors = 20 * (reference(first, second) / 2) ** 2  # beta = 20, and no factor 2
    ours = FIRE_PRESETS["cifar10"].weight * fisher_rao_distance(first, second) ** 2
    assert torch.allclose(authors.float(), ours, rtol=1e-4)


def test_presets():
    assert repr(FIRE_PRESETS["mnist"]) == "FisherRaoPenalty(weight=5.0, eps=0.3, eps_step=0.01, max_iter=40)"
    assert FIRE_PRESETS["cifar10"] == FisherRaoPenalty()
    assert eval(repr(FIRE_PRESETS["mnist"])) == FIRE_PRESETS["mnist"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": 0}, "`eps` is 0"),
        ({"eps_step": -1.0}, "`eps_step` is -1.0"),
        ({"max_iter": 0}, "`max_iter` is 0"),
        ({"weight": -1}, "`weight` is -1"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        FisherRaoPenalty(**settings)


def test_one_output_is_refused():
    with pytest.raises(ValueError, match="at least two logits"):
        FisherRaoPenalty()(nn.Linear(3, 1), torch.rand(2, 3))


def test_in_an_objective_with_the_others_and_under_autocast():
    from art_sensreg import JacobianPenalty, SensitivityPenalty

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    x, y = torch.rand(16, 5), torch.randint(0, 3, (16,))
    objective = Objective([SensitivityPenalty(), JacobianPenalty(), FisherRaoPenalty(eps=0.1, eps_step=0.05)])
    objective.prepare(model, x)
    assert objective.inner_maximisation
    terms, _ = objective(model, x, y)
    wanted = sum(
        float(terms[name]) * weight
        for name, weight in {"base": 1, "sensitivity": 1.0, "jacobian": 0.1, "fisher_rao": 5.0}.items()
    )
    assert float(terms["loss"]) == pytest.approx(wanted, rel=1e-5)
    alone = Objective([FisherRaoPenalty(eps=0.1, eps_step=0.05)])
    alone.prepare(model, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms, _ = alone(model, x, y)
    terms["loss"].backward()
    assert terms["fisher_rao"].dtype == torch.float32
    assert float(terms["fisher_rao"]) > 0
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
