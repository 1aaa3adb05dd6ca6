"""What the branches of a batch share, in the forms in which published networks are written."""

import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg import JacobianPenalty, SensRegTrainer, TrainingConfig
from art_sensreg.objectives import Objective
from tests.penalties.branch_models import Body, HandwrittenBatchNorm
from tests.penalties.helpers import generator
from tests.penalties.test_branches import X, Y, batch, built, by_hand, classifier


@pytest.mark.parametrize("dropout", [nn.Dropout, nn.AlphaDropout])
def test_dropout_in_place(dropout):
    """As MNASNet, EfficientNet and MobileNetV3 of torchvision have it."""
    net, (x, y) = built(lambda: Body(dropout(0.5, inplace=True))), batch()
    objective = Objective([JacobianPenalty(sigma=0.1)])
    objective.prepare(net, x)
    assert objective.traits.stacked
    wanted = by_hand(net, x, 0.1)
    terms, _ = objective(net, x, y, generator())
    assert torch.isclose(terms["jacobian"], wanted, rtol=1e-3)
    terms["loss"].backward()


class Switched(Body):
    """Something that begins when a rate is raised, or a part exchanged."""

    def __init__(self, kind):
        super().__init__(nn.Identity())
        self.kind, self.rate = kind, 0.0

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
    assert not objective.traits.stacked
    wanted = by_hand(net, x, 0.1)
    terms, _ = objective(net, x, y, generator())
    assert torch.isclose(terms["jacobian"], wanted, rtol=1e-3)
