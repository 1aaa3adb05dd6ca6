"""The cosine of input gradients at the start and the end of an adversary's step, against both computed by hand."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity, cross_entropy

from art_sensreg import JacobianPenalty, SensitivityPenalty
from art_sensreg.adversaries import FGSMRS, NFGSM, PGD, TRADES, CarriedAdversary
from art_sensreg.adversaries.gradient_pair import GradientPair
from art_sensreg.objectives import Objective
from tests.adversaries.helpers import prototypes, trainer_of
from tests.conftest import same_weights, weights_of


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).double()


X, Y = torch.rand(5, 6, generator=torch.Generator().manual_seed(0)).double(), torch.tensor([0, 1, 2, 0, 1])


def found_by(net, adversary, penalties=()):
    """The cosine, and the loss whose gradient is taken at the end as a function of the perturbed images."""
    objective = Objective(penalties, adversary=adversary)
    objective.prepare(net, X)
    objective.pair = pair = GradientPair()
    terms, _ = objective(net, X, Y, torch.Generator().manual_seed(1))
    terms["loss"].backward()
    return pair.cosine().item()


def gradient(loss, x):
    leaf = x.detach().clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(leaf), leaf)
    return found


@pytest.mark.parametrize(
    "adversary",
    [
        FGSMRS(eps=0.5),
        NFGSM(eps=0.5, clean_fraction=0.5),
        PGD(eps=0.5, max_iter=1),
        PGD(eps=1.0, max_iter=1, norm="l2", pair="adversarial", clean_fraction=0.5),
    ],
    ids=repr,
)
def test_it_is_that_of_the_gradients_of_the_loss(net, adversary):
    assert adversary.compares_gradients

    def loss(x):
        return cross_entropy(net(x), Y)

    start = adversary.draw_start(X, torch.Generator().manual_seed(1))
    at_start = adversary.ascent().project(X, X + start)
    end = adversary.perturb(net, X, Y, nn.CrossEntropyLoss(), torch.Generator().manual_seed(1))
    wanted = cosine_similarity(gradient(loss, at_start), gradient(loss, end)).mean().item()
    assert 0 < wanted < 0.999
    assert found_by(net, adversary) == pytest.approx(wanted, rel=1e-5)


def test_of_a_pair_of_start_and_end_it_is_that_of_all_that_is_minimised(net):
    adversary = CarriedAdversary(eps=0.5)
    start = adversary.draw_start(X, torch.Generator().manual_seed(1))
    size, ascent = adversary.pair_size(X), adversary.ascent()
    at_start = ascent.project(X, X + start)

    def difference(x):
        return (net(x) - net(at_start)).pow(2).sum(1).mean() / size**2 / 2

    def loss(x):
        return cross_entropy(net(x), Y)

    first = gradient(loss, at_start)
    end = ascent.move(X, at_start, first)
    last = gradient(lambda x: loss(x) + 0.1 * difference(x), end)
    wanted = cosine_similarity(first, last).mean().item()
    penalties = [SensitivityPenalty(weight=1e-12), JacobianPenalty(weight=0.1)]
    assert found_by(net, adversary, penalties) == pytest.approx(wanted, rel=1e-5)


def test_images_without_a_gradient_do_not_count():
    pair = GradientPair()
    pair.start_with(torch.tensor([[1e-30, 0.0], [0.0, 0.0], [1.0, 0.0], [torch.inf, 1.0]]))
    pair.end_at(torch.zeros(4, 2))
    pair.leaves[0].grad = torch.tensor([[1e-30, 1e-30], [1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    assert pair.cosine().item() == pytest.approx(0.5**0.5)
    pair.leaves[0].grad = torch.zeros(4, 2)
    assert pair.cosine() == 1
    assert GradientPair().cosine() is None


def test_only_one_step_on_the_same_loss_is_compared():
    others = (PGD(eps=0.1, max_iter=2), TRADES(eps=0.1, max_iter=1), CarriedAdversary(eps=0.1, free=True))
    assert not any(adversary.compares_gradients for adversary in others)


def test_comparing_gradients_changes_no_weight():
    x, y = prototypes()
    weights, histories = [], []
    for action in ("ignore", "report"):
        trainer = trainer_of(NFGSM(eps=0.1, clean_fraction=0.5), on_catastrophic_overfitting=action)
        trainer.fit(x, y % 4, nb_epochs=2, batch_size=16, verbose=False)
        weights.append(weights_of(trainer.get_classifier()))
        histories.append(trainer.history)
    assert same_weights(*weights)
    assert "gradient_cosine" not in histories[0][0]
    for record in histories[1]:
        assert 0 < record["gradient_cosine"] <= 1 + 1e-6
        assert record["overfitting_predicted"] == 0


@pytest.mark.parametrize("pair", ["adversarial", "start"])
def test_every_fourth_step_of_an_epoch_is_compared(pair):
    class Compared:
        def __init__(self):
            self.steps = []

        def on_step(self, state):
            self.steps.append("gradient_cosine" in state.terms)

    seen = Compared()
    x, y = prototypes()
    adversary = CarriedAdversary(eps=0.1, pair=pair)
    trainer = trainer_of(adversary, [SensitivityPenalty(weight=0.1)], callbacks=[seen])
    trainer.fit(x[:48], y[:48] % 4, nb_epochs=2, batch_size=8, verbose=False)
    assert seen.steps == [True, False, False, False, True, False] * 2
