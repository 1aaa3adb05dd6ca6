"""Models are tried on as many examples as they take."""

import pytest
import torch
from torch import nn

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegTrainer, TrainingConfig
from art_sensreg.penalties.forward.trial_rows import trial_rows, two_batches, with_enough_rows
from tests.penalties.branch_models import Body
from tests.penalties.helpers import X, Y, built, classifier


def test_few_examples_are_filled_up_with_noisy_copies():
    x = torch.rand(3, 2)
    rows = trial_rows(x, 8)
    assert torch.equal(rows[:3], x)
    assert len(rows.unique(dim=0)) == 8
    assert torch.equal(trial_rows(x, 2), x[:2])


def test_two_batches_have_different_examples_in_the_range_of_the_data():
    for x in (torch.rand(20, 3), torch.rand(4, 3), torch.ones(20, 3)):
        one, other = two_batches(x, 7)
        assert len(one) == len(other) == 7
        assert len(torch.cat([one, other]).unique(dim=0)) == 14
        if len(x.unique()) > 1:
            assert torch.cat([one, other]).min() >= x.min()
            assert torch.cat([one, other]).max() <= x.max()


def test_a_model_that_takes_large_batches_only_gets_one():
    assert with_enough_rows(lambda count: torch.zeros(count).view(16, -1).shape, 2) == (16, 2)


def test_the_first_error_is_raised_if_no_number_of_examples_will_do():
    seen = []

    def look(count):
        seen.append(count)
        raise ValueError(f"{count} examples")

    with pytest.raises(ValueError, match="2 examples"):
        with_enough_rows(look, 2)
    assert seen == [2, 32, 128]


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
