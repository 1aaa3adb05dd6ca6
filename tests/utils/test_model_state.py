from collections import deque

import pytest
import torch
from torch import nn

from art_sensreg.utils.model_state import MovedState, Snapshot, composition, moved_alike


class Counting(nn.Module):
    """Changes weights, a buffer and attributes in a pass."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.register_buffer("mean", torch.zeros(2))
        self.calls, self.seen, self.last = 0, deque(), None

    def forward(self, x):
        with torch.no_grad():
            self.weight += 1
            self.mean += x.mean(0)
        self.calls, self.last = self.calls + 1, x
        self.seen.append(len(x))
        return x * self.weight


def state(model):
    return model.weight.tolist(), model.mean.tolist(), model.calls, list(model.seen), model.last


def test_a_snapshot_restores_all_that_a_pass_changes():
    model = nn.Sequential(Counting())
    snapshot, before, weight = Snapshot(model), state(model[0]), model[0].weight
    model(torch.ones(3, 2))
    model[0].fresh = 1
    assert {name for _, name in snapshot.changed()} >= {"mean", "calls"}
    snapshot.restore()
    assert state(model[0]) == before
    assert model[0].weight is weight
    assert not hasattr(model[0], "fresh")
    assert not snapshot.changed()


def test_without_weights_parameters_and_lists_move_on():
    model = Counting()
    snapshot = Snapshot(model, weights=False)
    model(torch.ones(3, 2))
    snapshot.restore()
    assert state(model) == ([1.0, 1.0], [0.0, 0.0], 0, [3], None)


def test_a_graph_of_a_trial_is_not_written_to():
    model = nn.BatchNorm1d(2).eval()
    snapshot = Snapshot(model)
    x = torch.randn(4, 2, requires_grad=True)
    output = model(x)
    snapshot.restore()
    output.sum().backward()  # autograd refuses tensors that were changed in place
    torch.testing.assert_close(x.grad, torch.ones(4, 2))


@pytest.mark.parametrize("keep", [True, False])
def test_replayed_passes_begin_alike_and_end_at_the_first(keep):
    model = nn.BatchNorm1d(2)
    moved = MovedState([(model, "running_mean"), (model, "num_batches_tracked")])
    buffer, seen = model.running_mean, []
    with moved.replayed(keep) as again:
        for scale in (1.0, 2.0):
            seen.append(model.running_mean.clone())
            model(scale + torch.zeros(3, 2))
            if scale == 1.0:
                again()
    assert torch.equal(*seen)
    assert model.running_mean is buffer
    assert model.running_mean.tolist() == pytest.approx([0.1, 0.1] if keep else [0.0, 0.0])


def test_preserved_tensors_stay_and_numbers_count_on():
    model = Counting()
    with MovedState([(model, "mean"), (model, "calls")]).preserved():
        model(torch.ones(3, 2))
    assert (model.mean.tolist(), model.calls) == ([0.0, 0.0], 1)


def test_a_composition_differs_when_something_is_switched_on():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.0))
    before = composition(model)
    assert composition(model) == before
    model[1].p = 0.1
    assert composition(model) != before


@pytest.mark.parametrize(
    ("start", "alone", "stacked", "alike"),
    [
        (0.0, 1.0, 1.001, True),
        (0.0, 1.0, 1.1, False),
        (torch.zeros(2), torch.ones(2), torch.full((2,), 1.001), True),
        (torch.zeros(2), torch.ones(2), torch.full((2,), 1.1), False),
        (torch.tensor(3), torch.tensor(4), torch.tensor(5), False),
        (None, torch.ones(2), torch.ones(4), True),
    ],
)
def test_moves_are_alike_up_to_rounding(start, alone, stacked, alike):
    assert moved_alike(start, alone, stacked, 1e-2) == alike
