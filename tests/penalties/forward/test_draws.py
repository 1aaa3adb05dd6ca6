"""Randomness of the model's own: clean and perturbed examples get the same draws."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegTrainer, TrainingConfig
from art_sensreg.objectives import Objective
from art_sensreg.penalties.forward.draws import DRAWS, DROPOUTS, drops_nothing, of_parameter
from art_sensreg.penalties.forward.row_coupling import survey
from art_sensreg.utils.model_rng import Replay, random_sources, same_states
from tests.penalties.branch_models import DRAWING, Body, ViT
from tests.penalties.helpers import X, Y, batch, built, by_hand, classifier, generator, quiet


def test_parameters_and_their_views_are_distinguished_from_functions_of_the_batch():
    weight = nn.Linear(3, 2).weight
    assert of_parameter(weight)
    assert of_parameter(weight.view(1, 2, 3))
    assert not of_parameter(weight * 2)
    assert not of_parameter("weight")


def test_dropout_that_drops_nothing():
    assert not drops_nothing(0.5, (True,), {})
    assert not drops_nothing(0.5, (), {"train": True})
    assert drops_nothing(0.5, (), {"training": False})
    assert drops_nothing(0.5, (False,), {})
    assert drops_nothing(0, (), {})


CALLS = {
    "bernoulli_": (torch.Tensor.bernoulli_, (torch.ones(3), 0.5), {}, True),
    "randn_like": (torch.randn_like, (torch.ones(3),), {}, True),
    "noise on weights": (torch.randn_like, (nn.Parameter(torch.ones(3)),), {}, False),
    "rrelu in evaluation mode": (nn.functional.rrelu, (torch.ones(3),), {}, False),
    "rrelu in training mode": (nn.functional.rrelu, (torch.ones(3),), {"training": True}, True),
    "attention": (nn.functional.scaled_dot_product_attention, (), {"dropout_p": 0.1}, True),
    "attention without dropout": (nn.functional.scaled_dot_product_attention, (), {}, False),
}


@pytest.mark.parametrize(("function", "args", "kwargs", "drawn"), CALLS.values(), ids=CALLS)
def test_which_calls_draw(function, args, kwargs, drawn):
    assert DRAWS[function](args, kwargs) == drawn
    assert function not in DROPOUTS


@quiet
@pytest.mark.parametrize("sigma", [0.3, 0.03])
@pytest.mark.parametrize("name", [name for name in DRAWING if name != "numpy-variable" and name != "own-generator"])
def test_clean_and_noisy_examples_get_the_same_draws(name, sigma):
    net, (x, y) = built(DRAWING[name]), batch()
    objective = Objective([JacobianPenalty(sigma=sigma)])
    objective.prepare(net, x)
    wanted = by_hand(net, x, sigma)
    terms, _ = objective(net, x, y, generator())
    assert torch.isclose(terms["jacobian"], wanted, rtol=1e-3)


@pytest.mark.parametrize("name", ["layer-scale", "zero-gamma"])
def test_branches_that_the_initial_weights_hide(name):
    """They count as soon as the scale has grown; nothing is looked at again then."""
    net, (x, y) = built(DRAWING[name]), batch()
    objective = Objective([JacobianPenalty(sigma=0.03)])
    objective.prepare(net, x)
    with torch.no_grad():
        for key, parameter in net.named_parameters():
            if key.endswith(("scale", "gamma")):
                parameter.fill_(1.0)
    wanted = by_hand(net, x, 0.03)
    terms, _ = objective(net, x, y, generator())
    assert torch.isclose(terms["jacobian"], wanted, rtol=1e-3)


def test_equal_draws_whatever_the_initial_weights():
    """Where a look at two rows saw no difference in some, the penalty was several times as large as it is."""
    for seed in range(12):
        net, (x, y) = built(lambda: ViT(0.1), seed), batch()
        torch.manual_seed(seed)
        objective = Objective([JacobianPenalty(sigma=0.03)])
        objective.prepare(net, x)
        wanted = by_hand(net, x, 0.03)
        terms, _ = objective(net, x, y, generator())
        assert torch.isclose(terms["jacobian"], wanted, rtol=1e-3)


@quiet
@pytest.mark.parametrize("name", DRAWING)
def test_models_that_draw_are_recognised_whatever_the_seed(name):
    net, (x, _) = built(DRAWING[name]), batch()
    for seed in range(5):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        before = Replay(random_sources(net, x.device))
        objective = Objective([JacobianPenalty(sigma=0.1)])
        objective.prepare(net, x)
        assert not objective.plan.stacked
        assert same_states(before)


@quiet
@pytest.mark.parametrize("name", DRAWING)
def test_equal_seeds_give_equal_weights_whatever_the_global_generators(name):
    weights = []
    for seed in (1, 2):
        net = built(DRAWING[name])
        trainer = SensRegTrainer(classifier(net), [SensitivityPenalty()], TrainingConfig(seed=0))
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        trainer.fit(X, Y, batch_size=16, nb_epochs=1, verbose=False)
        weights.append([parameter.detach().clone() for parameter in net.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))


def test_a_source_that_cannot_be_found_is_an_error():
    class Hidden(Body):
        def inner(self, x):
            return x + torch.from_numpy(np.random.default_rng().random(x.shape, dtype=np.float32))

    net, (x, _) = built(Hidden), batch()
    with pytest.raises(ValueError, match="`model` returns different outputs for the same inputs and random states"):
        Objective([SensitivityPenalty()]).prepare(net, x)


def test_noise_on_weights_is_shared_by_stacked_rows():
    class Noisy(nn.Linear):
        def forward(self, x):
            return nn.functional.linear(x, self.weight + 0.1 * torch.randn_like(self.weight), self.bias)

    assert survey(built(lambda: Body(Noisy(6, 6))), batch()[0]).stacked
