import logging

import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg.attacks import HiddenDistanceAttack
from art_sensreg.attacks.base.norms import Ball
from art_sensreg.attacks.hidden_distance import TappedModel, relative_distance
from art_sensreg.attacks.projected_ascent import Victim
from art_sensreg.models import build_model
from tests.attacks.trained import LINF, RoundedLogits, accuracy, points, trained, victim_of, wrap


@pytest.mark.parametrize(
    "layers", ["hidden", "pre_activation", "hidden+logits", "logits", ["features.1"], [nn.ReLU, "logits"]]
)
def test_layers_are_chosen_as_for_the_penalty(layers):
    classifier, (x, y) = wrap(RoundedLogits(trained())), points(50)
    if isinstance(layers, list) and "features.1" in layers:
        layers = ["model.features.1"]
    made = HiddenDistanceAttack(classifier, layers=layers, **LINF).generate(x, y)
    assert accuracy(classifier, made, y) < (0.6 if layers != "logits" else 1.0)


def test_distance_moves_away_and_towards_as_it_says():
    classifier, (x, y) = wrap(trained()), points(30)
    victim = victim_of(classifier, x, y)
    tapped = TappedModel.plan(victim.model, classifier.model, "hidden", victim.x)
    own = tapped(victim.x)[1]
    random = tapped(victim.ball.border(victim.x, victim.generator))[1]
    away = HiddenDistanceAttack(classifier, **LINF).attempt(victim_of(classifier, x, y, restart=1))
    distance = relative_distance(tapped(away.perturbed)[1], own)
    assert (distance > relative_distance(random, own)).double().mean() > 0.9
    # Towards: the second restart maximises minus the distance, and nothing else.
    attack = HiddenDistanceAttack(classifier, direction="towards", **LINF)
    loss_fn = attack.get_loss_fn(victim_of(classifier, x, y, restart=1))
    start = loss_fn(victim.x)[0]
    found = attack.attempt(victim_of(classifier, x, y, restart=1))
    assert (start < 0).all()
    assert (found.losses[-1] > 0.6 * found.losses[0]).all()


def test_towards_reaches_the_activations_of_a_guide_within_reach():
    classifier, (x, y) = wrap(trained()), points(40)
    attack = HiddenDistanceAttack(classifier, direction="towards", eps=1.0, eps_step=0.05, max_iter=60)
    found = attack.attempt(victim_of(classifier, x, y, restart=1, eps=1.0))
    assert (found.margin > 0).double().mean() > 0.95
    assert found.losses[-1] > 0.1 * found.losses[0]


def test_loss_is_that_of_the_formula():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    classifier = wrap(model)
    classifier._input_shape = (3,)
    x, y, moved = torch.rand(6, 3), torch.tensor([0, 1, 0, 1, 0, 1]), torch.rand(6, 3)
    attack = HiddenDistanceAttack(classifier, weight=0.7)
    victim = Victim(model, x, y, Ball("linf", 1.0), 0, torch.Generator(), (x, y))
    expected = nn.functional.cross_entropy(model(moved), y, reduction="none")
    for layer in (model[:2], model[:4]):
        size = layer(x).pow(2).sum(1).mean()
        expected = expected + 0.7 / 2 * (layer(moved) - layer(x)).pow(2).sum(1) / size
    assert torch.allclose(attack.get_loss_fn(victim)(moved)[0], expected, rtol=1e-5)


class InPlace(nn.Module):
    """Its activations are overwritten after they were read."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(64, 32), nn.Linear(32, 10)

    def forward(self, x):
        hidden = nn.functional.gelu(self.first(x.flatten(1)))
        return self.last(hidden.mul_(0.5).add_(0.1))


def test_activations_that_are_overwritten():
    torch.manual_seed(0)
    model = InPlace()
    classifier, (x, y) = wrap(model), points(40)
    plan = TappedModel.plan(model, model, "hidden", torch.from_numpy(x))
    assert plan.clone
    _, (hidden,) = plan(torch.from_numpy(x))
    assert torch.allclose(hidden, nn.functional.gelu(model.first(torch.from_numpy(x).flatten(1))))
    y = classifier.predict(x).argmax(axis=1)
    for direction in ("away", "towards"):
        made = HiddenDistanceAttack(classifier, direction=direction, **LINF).generate(x, y)
        assert accuracy(classifier, made, y) < 0.5


def test_convolutions_with_batch_norm():
    torch.manual_seed(0)
    classifier = wrap(build_model("resnet-small", (1, 8, 8), 10, norm_layer="batch"))
    x, _ = points(8)
    statistics = [buffer.clone() for buffer in classifier.model.buffers()]
    y = classifier.predict(x).argmax(axis=1)
    made = HiddenDistanceAttack(classifier, direction="towards", eps=0.3, max_iter=5).generate(x, y)
    assert made.shape == x.shape
    assert all(torch.equal(a, b) for a, b in zip(classifier.model.buffers(), statistics, strict=True))


def test_without_hidden_activations_the_logits_are_used(caplog):
    torch.manual_seed(0)
    classifier, (x, _) = wrap(nn.Sequential(nn.Flatten(), nn.Linear(64, 10))), points(20)
    y = classifier.predict(x).argmax(axis=1)
    with caplog.at_level(logging.INFO, logger="art_sensreg"):
        made = HiddenDistanceAttack(classifier, **LINF).generate(x, y)
    assert "has no hidden activations: the distance of the logits is used" in caplog.text
    assert accuracy(classifier, made, y) < 0.5


class Averaged(nn.Module):
    """Mean logits of noisy copies: the hidden activations have another batch size, or cannot be read."""

    def __init__(self, vmapped):
        super().__init__()
        self.model, self.vmapped = trained(), vmapped

    def forward(self, x):
        if self.vmapped:
            one = torch.func.vmap(lambda _: self.model(x + 0.05 * torch.randn_like(x)), randomness="different")
            return one(torch.zeros(4)).mean(0)
        copies = x.repeat(4, 1, 1, 1)
        return self.model(copies + 0.05 * torch.randn_like(copies)).view(4, len(x), -1).mean(0)


@pytest.mark.parametrize("vmapped", [False, True])
def test_models_that_average_copies_of_the_batch(vmapped):
    classifier, (x, y) = wrap(Averaged(vmapped)), points(40)
    for direction in ("away", "towards"):
        made = HiddenDistanceAttack(classifier, direction=direction, **LINF).generate(x, y)
        assert accuracy(classifier, made, y) < 0.3


def test_guides_given_or_taken_from_the_batch():
    classifier, (x, y) = wrap(RoundedLogits(trained())), points(60)
    alone = HiddenDistanceAttack(classifier, direction="towards", guides=(x[10:], y[10:]), nb_restarts=8, **LINF)
    made = alone.generate(x[:10], y[:10])
    assert accuracy(classifier, made, y[:10]) < 0.8
    assert np.array_equal(alone.generate(x[:10], y[:10]), made)
