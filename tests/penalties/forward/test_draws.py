"""What the branches of a batch share, in the forms in which published networks are written."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegTrainer, TrainingConfig
from art_sensreg.objectives import Objective
from tests.penalties.forward.branch_models import Body, HandwrittenBatchNorm
from tests.penalties.forward.test_row_coupling import X, Y, batch, built, by_hand, classifier
from tests.penalties.helpers import generator


@pytest.mark.parametrize("dropout", [nn.Dropout, nn.AlphaDropout])
def test_dropout_in_place(dropout):
    """As MNASNet, EfficientNet and MobileNetV3 of torchvision have it."""
    net, (x, y) = built(lambda: Body(dropout(0.5, inplace=True))), batch()
    objective = Objective([JacobianPenalty(sigma=0.1)])
    objective.prepare(net, x)
    assert objective.plan.stacked
    wanted = by_hand(net, x, 0.1)
    terms, _ = objective(net, x, y, generator())
    assert torch.isclose(terms["jacobian"], wanted, rtol=1e-3)
    terms["loss"].backward()


class SplitBatchNorm(nn.Module):
    """Ghost BatchNorm as a view: it takes batches that it can divide, and no others."""

    def __init__(self, width, splits):
        super().__init__()
        self.splits = splits
        self.register_buffer("mean", torch.zeros(width * splits))
        self.register_buffer("var", torch.ones(width * splits))

    def forward(self, x):
        if not self.training:
            return nn.functional.batch_norm(x, *(v.view(self.splits, -1).mean(0) for v in (self.mean, self.var)))
        return nn.functional.batch_norm(x.view(-1, len(self.mean)), self.mean, self.var, training=True).view_as(x)


class Quarters(nn.BatchNorm1d):
    def forward(self, x):
        return torch.cat([super(Quarters, self).forward(part) for part in x.chunk(4)]) if self.training else x


@pytest.mark.filterwarnings("ignore:Clean and perturbed images")
@pytest.mark.parametrize("norm", [lambda: SplitBatchNorm(6, 8), lambda: SplitBatchNorm(6, 4), lambda: Quarters(6)])
def test_models_that_take_large_batches_only(norm):
    """Two, seven or eight rows, on which others are tried, are none that they can divide."""
    runs = []
    for penalties in ([], [JacobianPenalty(weight=1e-9, sigma=0.1), SensitivityPenalty(weight=1e-9)]):
        net = built(lambda: Body(norm()))
        before = net.first.weight.detach().clone()
        trainer = SensRegTrainer(classifier(net), penalties, TrainingConfig(seed=0))
        trainer.fit(X, Y, batch_size=16, nb_epochs=2, verbose=False)
        assert not torch.equal(before, net.first.weight)
        runs.append(net.state_dict())
    for (key, one), other in zip(runs[0].items(), runs[1].values(), strict=True):
        assert torch.allclose(one.double(), other.double(), atol=1e-4), key


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
def test_what_begins_between_two_epochs(kind):
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
def test_the_penalty_of_what_has_begun(kind):
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


def test_a_pass_that_is_broken_off_counts_for_nothing():
    class Later(Body):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(()))
            self.steps, self.rate = 0, 0.0

        def inner(self, x):
            self.count += 1
            self.steps += 1
            return x * (torch.rand(len(x), 1) >= self.rate) if self.rate else x

    net, (x, y) = built(Later), batch()
    objective = Objective([JacobianPenalty(sigma=0.1)])
    objective.prepare(net, x)
    net.rate = 0.5
    with pytest.warns(UserWarning, match="because it draws random numbers"):
        objective(net, x, y, generator())
    assert (net.steps, net.count.item()) == (1, 1)
