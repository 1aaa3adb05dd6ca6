"""What a penalty is called with is checked; what belongs to a whole batch is that of all its parts."""

from contextlib import suppress

import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg import JacobianPenalty, SensitivityPenalty
from art_sensreg.penalties.base import measure, plan_forward
from art_sensreg.penalties.inputs import WHOLE_BATCH, GivenBranch, PenaltyInputs, Share, check_batch, of_one_process
from tests.penalties.helpers import generator


@pytest.mark.parametrize(
    ("model", "x", "error", "message"),
    [
        ("model", torch.rand(2, 3), TypeError, "`model` is 'model'; expected an nn.Module from inputs to logits"),
        (nn.Identity(), np.ones((2, 3)), TypeError, "`x` is ndarray; expected a floating point torch.Tensor"),
        (nn.Identity(), torch.ones(2, 3, dtype=torch.long), TypeError, "`x` is torch.int64"),
        (nn.Identity(), torch.rand(0, 3), ValueError, r"`x` has shape \(0, 3\)"),
        (nn.Identity(), torch.rand(3), ValueError, r"`x` has shape \(3,\)"),
    ],
)
def test_what_is_no_batch_is_refused(model, x, error, message):
    with pytest.raises(error, match=message):
        check_batch(model, x)


def test_a_batch_passes():
    check_batch(nn.Identity(), torch.rand(2, 3))


class Waiting(Exception):
    """A process waits for the others."""


class Exchange:
    """What one of several processes gets from the others, as far as it is known."""

    def __init__(self, known):
        self.known, self.asked = iter(known), None

    def __call__(self, mean):
        for whole in self.known:
            return whole
        self.asked = mean
        raise Waiting


def of_processes(evaluate, weights):
    """The values on each of several processes, which exchange means: all run again until all means are known."""
    means = []
    while True:
        exchanges, values = [Exchange(means) for _ in weights], []
        for rank, exchange in enumerate(exchanges):
            with suppress(Waiting):
                values.append(evaluate(rank, exchange))
        if len(values) == len(weights):
            return values
        assert not values  # or a process would wait for ever
        pairs = zip(weights, exchanges, strict=True)
        means.append(sum(weight * exchange.asked for weight, exchange in pairs) / len(weights))


@pytest.mark.parametrize(
    "penalty",
    [
        SensitivityPenalty(scale="relative"),
        SensitivityPenalty(scale="relative", distance="absolute"),
        SensitivityPenalty(top_layers=1),
        SensitivityPenalty(scale="relative", top_layers=1),
        JacobianPenalty(norm="nuclear", sigma=0.1),
        JacobianPenalty(norm="nuclear", sigma=0.1, squared=False),
    ],
    ids=repr,
)
def test_values_and_gradients_of_processes_are_those_of_one(penalty):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5), nn.GELU(), nn.Linear(5, 4)).double()
    x = torch.rand(9, 6, generator=generator()).double()
    noisy = x + 0.3 * torch.randn(9, 6, generator=generator()).double()
    plan, weights = plan_forward(net, x, {"p": penalty}), list(net.parameters())

    def evaluate(part, exchange=of_one_process):
        given = GivenBranch(noisy[part], 0.3)
        inputs = PenaltyInputs(x=x[part], given=given, over_processes={"p": exchange})
        value = measure(net, {"p": penalty}, inputs, plan).values["p"]
        return [value, *torch.autograd.grad(value, weights, allow_unused=True, materialize_grads=True)]

    parts, factors = [slice(0, 5), slice(5, 8), slice(8, 9)], [5 / 3, 1.0, 1 / 3]
    found = of_processes(lambda rank, exchange: evaluate(parts[rank], exchange), factors)
    sums = [sum(f * v for f, v in zip(factors, column, strict=True)) / 3 for column in zip(*found, strict=True)]
    for one, other in zip(sums, evaluate(slice(0, 9)), strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)
    if not getattr(penalty, "top_layers", None):
        apart = sum(f * evaluate(part)[0] for f, part in zip(factors, parts, strict=True)) / 3
        assert not torch.isclose(apart, sums[0], rtol=1e-9)  # what each process would find alone


def test_means_of_a_share_become_those_of_the_batch_with_the_weight_of_the_term():
    others = torch.tensor([1.0, 5.0])

    def mean(values):  # over this process and another one
        return (values + others) / 2

    share = Share(noisy_rows=2, weight=0.5, noisy_weight=1.5, mean=mean)
    found = share.over_processes({"sensitivity": share.noisy_weight, "jacobian": torch.tensor(share.weight)})
    assert found["sensitivity"](torch.tensor([2.0, 4.0])).tolist() == [2.0, 5.5]
    assert found["jacobian"](torch.tensor([2.0, 4.0])).tolist() == [1.0, 3.5]


def test_one_process_exchanges_nothing():
    assert WHOLE_BATCH.over_processes({"sensitivity": 1.0}) == {}
    assert Share(mean=torch.neg) == WHOLE_BATCH  # how it is exchanged is not what the share is
