"""GradDiv's terms against closed forms and brute force, and the penalty against differences in the weights."""

import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg import (
    GradDivTrainer,
    GradientDiversityPenalty,
    RandomizedClassifier,
    SensRegClassifier,
    TrainingConfig,
)
from art_sensreg.attacks import EOT
from art_sensreg.objectives import Objective
from art_sensreg.penalties.gradient_diversity import (
    draw_gradients,
    gradient_cosine,
    unit_gradients,
)
from art_sensreg.randomization import randomize
from tests.penalties.helpers import Attending, slopes

KINDS = ["kappa", "mean", "dpp"]


def random_net(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3)).to(dtype)
    return randomize(model, kind="rse", first_std=0.5, std=0.5)


def batch(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(8, 6, generator=generator, dtype=dtype), torch.randint(0, 3, (8,), generator=generator)


@pytest.mark.parametrize("kind", KINDS)
def test_the_penalty_is_its_formula(kind):
    model, (x, y) = random_net(), batch()
    torch.manual_seed(5)
    found = GradientDiversityPenalty(kind=kind, samples=4, delta=0.3)(model, x, y).item()
    torch.manual_seed(5)
    gradients = []
    for _ in range(4):
        leaf = x.clone().requires_grad_()
        nn.functional.cross_entropy(model(leaf), y).backward()
        gradients.append(leaf.grad.numpy())
    units = np.stack([g / np.linalg.norm(g, axis=1, keepdims=True) for g in gradients])
    length = np.linalg.norm(units.mean(0), axis=1)
    values = {
        "kappa": (length * (6 - length**2) / (1 - length**2)).mean() / 6,
        "mean": np.mean([(units[i] * units[j]).sum(1) for i in range(4) for j in range(i)]),
        "dpp": np.mean([-np.linalg.slogdet(units[:, r] @ units[:, r].T + 0.3 * np.eye(4))[1] for r in range(8)]),
    }
    assert found == pytest.approx(values[kind], rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_in_the_weights_are_those_of_differences(kind):
    model, (x, y) = random_net(), batch()
    penalty = GradientDiversityPenalty(kind=kind, samples=3)

    def value():
        torch.manual_seed(7)
        return penalty(model, x, y)

    found, wanted = slopes(value, model[0].weight)
    assert found == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("kind", ["rse", "bayesian", "pni"])
def test_attention_is_differentiated_twice(kind):
    torch.manual_seed(0)
    model, (x, y) = randomize(Attending(), kind=kind).double().train(), batch()

    def value():
        torch.manual_seed(7)
        return GradientDiversityPenalty(kind="mean", samples=2)(model, x, y)

    weight = max((p for p in model.parameters() if p.requires_grad), key=torch.numel)
    found, wanted = slopes(value, weight)
    assert wanted != 0
    assert found == pytest.approx(wanted, rel=1e-4)


def test_a_network_that_is_not_random_has_cosine_one_and_a_finite_penalty():
    torch.manual_seed(0)
    model, (x, y) = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3)), batch(torch.float32)
    assert gradient_cosine(model, x, y, samples=4) == pytest.approx(1.0, abs=1e-5)
    for kind in KINDS:
        value = GradientDiversityPenalty(kind=kind)(model, x, y)
        value.backward()
        assert torch.isfinite(value)
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_averaging_models_give_single_draws():
    model, (x, y) = random_net(dtype=torch.float32), batch(torch.float32)
    averaged = EOT(model, samples=64).eval()
    torch.manual_seed(0)
    alone = gradient_cosine(model, x, y)
    assert gradient_cosine(averaged, x, y) == pytest.approx(alone, abs=0.1)
    classifier = RandomizedClassifier(model, nn.CrossEntropyLoss(), (6,), 3, samples=64, device_type="cpu")
    assert gradient_cosine(classifier.model, x, y) == pytest.approx(alone, abs=0.1)


def test_modes_and_statistics_stay():
    model = randomize(nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)), kind="rse")
    x, y = batch(torch.float32)
    for training in (True, False):
        model.train(training)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        GradientDiversityPenalty()(model, x, y).backward()
        assert model.training == training
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert x.grad is None


def test_labels_as_probabilities_and_half_precision():
    model, (x, y) = random_net(dtype=torch.float32), batch(torch.float32)
    values = []
    for labels in (y, nn.functional.one_hot(y, 3).float()):
        torch.manual_seed(0)
        values.append(GradientDiversityPenalty()(model, x, labels).item())
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert GradientDiversityPenalty()(model, x, y).item() == pytest.approx(values[0], rel=1e-5)
    half = random_net(dtype=torch.bfloat16)
    assert torch.isfinite(GradientDiversityPenalty()(half, x.bfloat16(), y))


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_in_half_precision_is_near_the_one_in_single(kind):
    values = []
    for dtype in (torch.float32, torch.bfloat16):
        model, (x, y) = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3)), batch(torch.float32)
        torch.manual_seed(0)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.5)
        penalty = GradientDiversityPenalty(kind=kind)
        value = penalty(model.to(dtype), x.to(dtype), y)
        value.backward()
        assert value.dtype == torch.float32
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
        values.append(value.item())
    assert values[1] == pytest.approx(values[0], rel=0.02)  # no noise: all draws agree in both


def norm_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double().train()


@pytest.mark.parametrize("create_graph", [False, True])
def test_gradients_do_not_leak_through_the_statistics_of_the_batch(create_graph):
    model, (x, y) = norm_net(), batch()
    found = draw_gradients(model, x, y, samples=1, create_graph=create_graph)[0]
    assert found.requires_grad == create_graph
    hidden = model[0](x).detach()
    frozen = norm_net().eval()
    frozen[1].running_mean.copy_(hidden.mean(0))
    frozen[1].running_var.copy_(hidden.var(0, correction=0))
    leaf = x.clone().requires_grad_()
    nn.functional.cross_entropy(frozen(leaf), y, reduction="sum").backward()
    directions = [nn.functional.normalize(gradient, dim=1) for gradient in (found, leaf.grad)]
    assert torch.allclose(*directions, atol=1e-12)


def test_gradients_in_the_weights_with_batch_norm():
    (x, y), weight = batch(), norm_net()[0].weight.detach().clone().requires_grad_()

    def value(weight):
        model = randomize(norm_net(), kind="rse", first_std=0.5)
        torch.manual_seed(7)
        bound = Bound(model, weight)
        return GradientDiversityPenalty(samples=3)(bound, x, y)

    assert torch.autograd.gradcheck(value, (weight,))


class Bound(nn.Module):
    """A model whose first layer has a weight that is given."""

    def __init__(self, model, weight):
        super().__init__()
        self.model, self.given = model, [weight]

    def forward(self, x):
        return torch.func.functional_call(self.model, {"0.weight": self.given[0]}, (x,))


@pytest.mark.parametrize("gap", [0, 20, 60, 70, 75, 80, 88, 92, 100, 120])
@pytest.mark.parametrize("kind", KINDS)
def test_confident_examples_have_a_finite_derivative(kind, gap):
    model, (x, _) = random_net(dtype=torch.float32), batch(torch.float32)
    with torch.no_grad():
        model[2].bias.copy_(torch.tensor([float(gap), 0.0, 0.0]))
    value = GradientDiversityPenalty(kind=kind)(model, x, torch.zeros(8, dtype=torch.long))
    value.backward()
    assert torch.isfinite(value)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


class Blind(nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return self.bias.expand(len(x), 3)


def test_a_model_that_does_not_look_at_its_input():
    x, y = batch(torch.float32)
    assert GradientDiversityPenalty(kind="mean")(Blind(), x, y).item() == 0.0


@pytest.mark.parametrize("kind", ["int32", "uint8", "whole rows", "double rows"])
def test_labels_of_other_types(kind):
    model, (x, y) = random_net(dtype=torch.float32), batch(torch.float32)
    rows = nn.functional.one_hot(y, 3)
    labels = {"int32": y.int(), "uint8": y.byte(), "whole rows": rows, "double rows": rows.double()}[kind]
    values = []
    for given in (y, labels):
        torch.manual_seed(0)
        values.append(GradientDiversityPenalty()(model, x, given).item())
    assert values[1] == pytest.approx(values[0], rel=1e-5)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.ones(8, 6, dtype=torch.long), TypeError, "`x` is torch.int64"),
        (np.ones((8, 6)), TypeError, "`x` is ndarray"),
        (torch.ones(0, 6), ValueError, "`x` has shape \\(0, 6\\)"),
    ],
)
def test_wrong_inputs(x, error, message):
    with pytest.raises(error, match=message):
        GradientDiversityPenalty()(random_net(dtype=torch.float32), x, torch.zeros(len(x), dtype=torch.long))


def test_in_an_objective():
    model, (x, y) = random_net(dtype=torch.float32), batch(torch.float32)
    objective = Objective([GradientDiversityPenalty(weight=0.5)])
    objective.prepare(model, x)
    terms, _ = objective(model, x, y)
    total = terms["base"].item() + 0.5 * terms["gradient_diversity"].item()
    assert terms["loss"].item() == pytest.approx(total, rel=1e-5)
    with torch.no_grad():
        value = GradientDiversityPenalty()(model, x, y)
    assert not value.requires_grad


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 1}, "`samples` is 1"),
        ({"kind": "cosine"}, "`kind` is 'cosine'"),
        ({"delta": 0.0}, "`delta` is 0.0"),
        ({"weight": -1.0}, "`weight` is -1.0"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        GradientDiversityPenalty(**settings)


def test_draws_are_of_different_networks():
    model, (x, y) = random_net(dtype=torch.float32), batch(torch.float32)
    gradients = draw_gradients(model, x, y, samples=3)
    assert gradients.shape == (3, 8, 6)
    assert not torch.allclose(gradients[0], gradients[1])


def test_confident_examples_have_the_direction_of_float64():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3))
    x, _ = batch(torch.float32)
    with torch.no_grad():
        model[2].weight.mul_(120)
        y = model(x).argmax(1)
    double = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3)).double()
    double.load_state_dict(model.state_dict())
    leaf = x.double().requires_grad_()
    nn.functional.cross_entropy(double(leaf), y, reduction="sum").backward()
    found = unit_gradients(draw_gradients(model, x, y, samples=1))[0].double()
    wanted = nn.functional.normalize(leaf.grad, dim=1)
    losses = nn.functional.cross_entropy(double(leaf), y, reduction="none")
    assert losses.min() < 1e-7
    assert (found * wanted).sum(1).min() > 0.9999


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_trains_as_single_does(kind):
    x, y = np.random.default_rng(0).random((40, 6), dtype=np.float32), np.arange(40) % 3
    values = []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        layers = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)
        model = randomize(nn.Sequential(*layers), kind="rse")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        classifier = SensRegClassifier(model, nn.CrossEntropyLoss(), (6,), 3, optimizer=optimizer, device_type="cpu")
        trainer = GradDivTrainer(classifier, kind=kind, config=TrainingConfig(seed=0, precision=precision))
        trainer.fit(x, y, batch_size=20, nb_epochs=1, verbose=False)
        values.append(trainer.history[-1]["gradient_diversity"])
    assert values[1] == pytest.approx(values[0], rel=0.05)
