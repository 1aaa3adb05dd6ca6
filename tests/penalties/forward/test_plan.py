"""When the plan of the forward pass is made, and made anew; what it warns of."""

import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegTrainer, TrainingConfig
from art_sensreg.objectives import Objective
from art_sensreg.penalties.forward.plan import ForwardPlan, works_in_place
from tests.penalties.branch_models import COUPLED, Body, HandwrittenBatchNorm
from tests.penalties.helpers import X, Y, batch, built, by_hand, classifier, generator


def test_only_sources_other_than_torchs_own_are_seeded():
    own = torch.Generator()
    sources = (torch.default_generator, np.random, random, own)
    assert ForwardPlan(sources=sources, draws=True).sources_to_seed == [np.random, random, own]
    assert ForwardPlan(sources=sources).sources_to_seed == []


def test_a_plan_that_failed_is_unstacked_with_a_warning():
    plan = ForwardPlan(coupled=True)
    with pytest.warns(
        UserWarning, match="because it sees all rows. .* Layers that are not torch.s own normalise each branch"
    ):
        other = plan.unstacked("it sees all rows")
    assert (plan.stacked, other.stacked, other.coupled) == (True, False, True)


def test_a_model_that_works_in_place_is_found_out_on_a_copy():
    x = torch.rand(3, 4)
    before = x.clone()
    assert works_in_place(nn.ReLU(inplace=True), x - 0.5)
    assert not works_in_place(nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True)), x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", COUPLED)
def test_unstacked_branches_are_warned_of_once(name):
    net, (x, y) = built(COUPLED[name]), batch()
    objective = Objective([SensitivityPenalty()])
    with pytest.warns(UserWarning, match="cannot share a forward pass of this model, because"):
        objective.prepare(net, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective(net, x, y)


class Switched(Body):
    """Something that begins when a rate is raised, or a part exchanged."""

    def __init__(self, kind):
        super().__init__(nn.Identity())
        self.kind, self.rate, self.steps = kind, 0.0, 0

    def inner(self, x):
        if self.rate and self.kind == "numpy":
            return x * torch.from_numpy((np.random.rand(len(x), 1) >= self.rate).astype("f"))
        return x + self.rate * x.flip(0) if self.kind == "rows" else self.middle(x)

    def on_epoch(self, state):
        self.rate = 0.5
        if self.kind == "module" and isinstance(self.middle, nn.Identity):
            self.middle = HandwrittenBatchNorm(6).train()


@pytest.mark.filterwarnings("ignore:Clean and perturbed images")
@pytest.mark.parametrize("kind", ["numpy", "rows", "module"])
def test_a_model_that_changes_between_epochs_is_planned_anew(kind):
    """A callback that raises a rate from 0, or puts in another module: the model is looked at once more."""
    runs = []
    for weight, seed in ((0.0, 0), (1e-9, 1)):
        net = built(lambda: Switched(kind))
        config = TrainingConfig(seed=0, callbacks=[net])
        trainer = SensRegTrainer(classifier(net), [JacobianPenalty(weight=weight, sigma=0.1)], config)
        np.random.seed(seed)
        trainer.fit(X, Y, batch_size=16, nb_epochs=3, verbose=False)
        runs.append(net.state_dict())
    for (key, one), other in zip(runs[0].items(), runs[1].values(), strict=True):
        assert torch.allclose(one.double(), other.double(), atol=1e-4), key


@pytest.mark.filterwarnings("ignore:Clean and perturbed images")
@pytest.mark.parametrize("kind", ["numpy", "rows", "module"])
def test_the_penalty_after_a_change_of_the_model(kind):
    net, (x, y) = built(lambda: Switched(kind)), batch()
    objective = Objective([JacobianPenalty(sigma=0.1)])
    objective.prepare(net, x)
    net.on_epoch(None)
    objective.look_again(net, x)
    assert not objective.plan.stacked
    wanted = by_hand(net, x, 0.1)
    terms, _ = objective(net, x, y, generator())
    assert torch.isclose(terms["jacobian"], wanted, rtol=1e-3)


def test_a_model_that_counts_is_warned_of_once():
    """It is looked at again once it has begun to count."""

    class Counting(Switched):
        def inner(self, x):
            self.steps += 1
            return x + 0.5 * x.flip(0)

    trainer = SensRegTrainer(classifier(built(lambda: Counting("rows"))), [JacobianPenalty(sigma=0.1)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(X, Y, batch_size=16, nb_epochs=3, verbose=False)
    assert [str(item.message).startswith("Clean and perturbed images") for item in caught].count(True) == 1
