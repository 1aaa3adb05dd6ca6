"""Models that draw random numbers, couple the rows of a batch, or keep state: each branch is what it is alone."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from art_sensreg import JacobianPenalty, SensitivityPenalty
from art_sensreg.objectives import Objective
from art_sensreg.penalties.forward.row_coupling import survey, treats_examples_alone
from art_sensreg.utils.model_state import Snapshot
from tests.penalties.branch_models import (
    ALONE,
    COUPLED,
    KNOWN,
    BatchRange,
    Block,
    Body,
    DropPath,
    GhostBatchNorm,
    HandwrittenBatchNorm,
    ViT,
)
from tests.penalties.helpers import batch, built, by_hand, generator, quiet

# --- randomness ------------------------------------------------------------------------------------------------------


# --- rows that influence each other, and state -----------------------------------------------------------------------


def trained(net, penalties, steps=4, rows=16):
    x, y = batch(rows)
    objective = Objective(penalties)
    objective.prepare(net, x)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(steps):
        optimizer.zero_grad()
        terms, logits = objective(net, x.roll(step, 0), y, generator(step))
        terms["loss"].backward()
        optimizer.step()
    return logits, net


PENALTIES = {
    "both": [SensitivityPenalty(weight=1e-9), JacobianPenalty(weight=1e-9)],
    "projection": [JacobianPenalty(weight=1e-9, estimator="projection")],
}


@quiet
@pytest.mark.parametrize("penalties", PENALTIES)
@pytest.mark.parametrize("name", [*COUPLED, *KNOWN, *ALONE])
def test_a_penalty_of_negligible_weight_leaves_training_unchanged(name, penalties):
    make = {**COUPLED, **KNOWN, **ALONE}[name]
    (logits, plain), (others, net) = trained(built(make), []), trained(built(make), PENALTIES[penalties])
    assert torch.allclose(logits, others, atol=1e-4)
    for (key, one), two in zip(plain.state_dict().items(), net.state_dict().values(), strict=True):
        assert torch.allclose(one.double(), two.double(), atol=1e-4), key
    counts = [[getattr(module, "calls", None) for module in model.modules()] for model in (plain, net)]
    assert counts[0] == counts[1]


@quiet
def test_ghost_batches_larger_than_the_trial():
    """Each of the batch's parts has statistics of its own, by which the noisy rows of that part are normalised."""
    net, (x, y) = built(lambda: Body(GhostBatchNorm(6, size=16))), batch(32)
    objective = Objective([JacobianPenalty(sigma=0.1)])
    objective.prepare(net, x[:14])
    plain = copy.deepcopy(net)
    terms, logits = objective(net, x, y, generator())
    assert torch.allclose(logits, plain(x), atol=1e-5)
    assert all(torch.allclose(a, b) for a, b in zip(net.buffers(), plain.buffers(), strict=True))
    noisy = x + 0.1 * torch.randn(x.shape, generator=generator())
    squares = []
    for part in (slice(0, 16), slice(16, 32)):
        norm = nn.BatchNorm1d(6, momentum=1.0)
        norm(net.first(x[part]))
        norm.running_var.mul_(15 / 16)
        fixed = Body(norm.eval())
        fixed.load_state_dict(net.state_dict(), strict=False)
        squares.append((fixed(noisy[part]) - fixed(x[part])).pow(2).sum(1) / 0.01)
    assert torch.isclose(terms["jacobian"], torch.cat(squares).mean() / 2, rtol=1e-3)


@quiet
def test_the_exact_jacobian_of_coupled_examples_is_refused():
    net, (x, _) = built(COUPLED["handwritten"]), batch()
    with pytest.raises(ValueError, match=r"depend on other examples .* expected another `estimator`"):
        Objective([JacobianPenalty(estimator="exact")]).prepare(net, x)
    with pytest.raises(ValueError, match="depend on other examples"):
        JacobianPenalty(estimator="exact")(net, x)


@pytest.mark.parametrize("name", ALONE)
def test_standardised_weights_and_instances(name):
    """Measured in one stacked pass as in two of the model alone."""
    net, (x, y) = built(ALONE[name]), batch(14)
    objective = Objective([JacobianPenalty(sigma=0.1)])
    objective.prepare(net, x)
    assert objective.plan.stacked
    for stacked in (True, False):
        objective.plan = replace(objective.plan, stacked=stacked)
        terms, _ = objective(net, x, y, generator())
        assert torch.isclose(terms["jacobian"], by_hand(net, x, 0.1), rtol=1e-3)
    exact = JacobianPenalty(estimator="exact")(net, x)
    rows = [torch.autograd.functional.jacobian(lambda row: net(row[None])[0], row) for row in x]
    assert torch.isclose(exact, sum(row.pow(2).sum() for row in rows) / len(x) / 2, rtol=1e-4)


class Stateful(Body):
    """Counts, remembers, and limits its weights."""

    def __init__(self):
        super().__init__(HandwrittenBatchNorm(6))
        self.count, self.log, self.centre = 0, [], torch.zeros(6)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def inner(self, x):
        self.count += 1
        self.calls += 1
        self.log.append(len(x))
        self.centre = 0.9 * self.centre + 0.1 * x.detach().mean(0)
        self.last_seen = x
        self.last.weight.data = self.last.weight.data.clamp(-0.01, 0.01)
        return super().inner(x)


@quiet
@pytest.mark.parametrize("training", [True, False])
def test_trial_passes_leave_no_trace(training):
    net, (x, y) = built(Stateful).train(training), batch()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    graph = net.first.weight.pow(2).sum() * net.middle.running_var.clone().sum()
    penalties = [SensitivityPenalty(), JacobianPenalty(estimator="projection")]
    objective = Objective(penalties)
    objective.prepare(net, x)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert (net.count, net.log, net.middle.calls, hasattr(net, "last_seen")) == (0, [], 0, False)
    for penalty in penalties:
        penalty(net, x)
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())
    assert (net.count, net.middle.calls) == (0, 0)
    assert torch.equal(net.centre, torch.zeros(6))
    graph.backward()  # nothing that a graph holds was written to
    objective(net, x, y)
    assert (net.count, int(net.calls)) == (1, 1)


def test_a_scripted_layer_cannot_be_named():
    net, (x, _) = built(COUPLED["scripted"]), batch()
    with pytest.raises(ValueError, match="`layers` selects 'middle', a TorchScript module"):
        Objective([SensitivityPenalty(layers=["middle"])]).prepare(net, x)


def test_modules_that_fold_their_weights_in_evaluation_mode():
    class Adapter(nn.Linear):
        folded = False

        def train(self, mode=True):
            if mode == self.folded:
                self.weight.data += -1.0 if mode else 1.0
                self.folded = not mode
            return super().train(mode)

    net, (x, _) = built(lambda: Body(Adapter(6, 6))), batch()
    before = net.middle.weight.detach().clone()
    Objective([SensitivityPenalty()]).prepare(net, x)
    assert not net.middle.folded
    assert torch.equal(net.middle.weight, before)


def test_ordinary_models_are_stacked():
    for make in (lambda: Body(nn.BatchNorm1d(6)), lambda: ViT(0.0), lambda: Body(nn.Dropout()), lambda: Block(8, 0.0)):
        net = built(make)
        x = torch.rand(14, 3, 8) if isinstance(net, Block) else batch(14)[0]
        assert survey(net, x).stacked
    assert not survey(Body(DropPath(0.0)).train(), batch()[0]).random


def test_what_a_snapshot_puts_back():
    net = built(Stateful)
    snapshot = Snapshot(net)
    net(batch()[0])
    assert {"count", "calls", "centre", "running_mean", "running_var"} <= {name for _, name in snapshot.changed()}
    snapshot.restore()
    assert (net.count, net.log) == (0, [])


def test_which_models_may_be_computed_in_parts():
    x = torch.rand(14, 3)
    alone = {"linear": nn.Linear(3, 2), "evaluated": nn.BatchNorm1d(3).eval()}
    together = {"norm": nn.BatchNorm1d(3), "dropout": nn.Dropout(), "range": BatchRange()}
    assert all(treats_examples_alone(model, x, survey(model, x)) for model in alone.values())
    assert not any(treats_examples_alone(model, x, survey(model, x)) for model in together.values())
