"""Activation checkpointing gives the values, gradients and running statistics of the same model without it."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from art_sensreg import FisherRaoPenalty, GradientDiversityPenalty, JacobianPenalty, SensitivityPenalty
from art_sensreg.adversaries import PGD, TRADES
from art_sensreg.objectives import Objective
from art_sensreg.penalties.forward.inner_ascent import Ascent, inner_ascent
from tests.penalties.branch_models import DropPath, GhostBatchNorm
from tests.penalties.helpers import generator


class Blocks(nn.Module):
    def __init__(self, reentrant=None, whole=False, own=False):
        super().__init__()
        self.reentrant, self.whole = reentrant, whole
        sizes = (6, 8, 8)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Linear(*pair),
                GhostBatchNorm(8, 6) if own else nn.BatchNorm1d(8),
                nn.GELU(),
                nn.Dropout(0.3),
                DropPath(0.3 if own else 0.0),
            )
            for pair in pairwise(sizes)
        )
        self.last = nn.Linear(8, 3)

    def part(self, function, x):
        return function(x) if self.reentrant is None else checkpoint(function, x, use_reentrant=self.reentrant)

    def inner(self, x):
        for block in self.blocks:
            x = block(x)
        return self.last(x)

    def forward(self, x):
        if self.whole:
            return self.part(self.inner, x)
        for block in self.blocks:
            x = self.part(block, x)
        return self.last(x)


def squared_logits(model, x, y):
    return model(x).pow(2).mean()


CASES = {
    "sr+jr": ([SensitivityPenalty(), JacobianPenalty()], None),
    "jr": ([JacobianPenalty(sigma=0.1)], None),
    "projection": ([JacobianPenalty(estimator="projection")], None),
    "exact": ([SensitivityPenalty(), JacobianPenalty(estimator="exact")], None),
    "fire": ([FisherRaoPenalty(eps=0.1, eps_step=0.05, max_iter=2)], None),
    "diversity": ([GradientDiversityPenalty(samples=2)], None),
    "own": ([squared_logits], None),
    "none": ([], None),
    "pgd": ([], PGD(eps=0.1, max_iter=2)),
    "trades": ([SensitivityPenalty()], TRADES(eps=0.1, max_iter=2)),
}


def step(net, penalties, adversary):
    x, y = torch.rand(12, 6, generator=generator()).double(), torch.arange(12) % 3
    objective = Objective(penalties, adversary=adversary)
    objective.prepare(net, x)
    torch.manual_seed(5)
    terms, _ = objective(net, x, y, generator(1))
    terms["loss"].backward()
    after = torch.rand(1)
    return [*terms.values(), *(p.grad for p in net.parameters()), *(b.double() for b in net.buffers()), after]


@pytest.mark.parametrize("own", [False, True], ids=["stacked", "separate"])
@pytest.mark.parametrize("whole", [False, True], ids=["blocks", "whole"])
@pytest.mark.parametrize("reentrant", [False, True], ids=["non-reentrant", "reentrant"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:Clean and perturbed images")
def test_a_step_is_that_without_checkpointing(case, reentrant, whole, own):
    torch.manual_seed(0)
    plain = Blocks(own=own).double().train()
    other = Blocks(reentrant, whole, own).double().train()
    other.load_state_dict(plain.state_dict())
    for one, two in zip(step(plain, *CASES[case]), step(other, *CASES[case]), strict=True):
        assert torch.allclose(one, two, rtol=1e-9, atol=1e-12)


def test_inner_steps_differentiate_a_reentrant_model():
    plain, other = Blocks().eval(), Blocks(True, True).eval()
    other.load_state_dict(plain.state_dict())
    x = torch.rand(4, 6)
    ascent = Ascent(eps=0.1, eps_step=0.05, max_iter=2)
    one, two = (inner_ascent(net, lambda z: z[:, 0].sum(), x, x, ascent) for net in (plain, other))
    assert torch.allclose(one, two)
    assert not torch.equal(one, x)


def test_torchs_own_functions_are_back_afterwards():
    before = dict(vars(torch.utils.checkpoint))
    net = Blocks(False).train()
    SensitivityPenalty()(net, torch.rand(5, 6))
    with pytest.raises(RuntimeError):
        SensitivityPenalty()(copy.deepcopy(net), torch.rand(5, 7))
    assert all(vars(torch.utils.checkpoint)[name] is value for name, value in before.items())
