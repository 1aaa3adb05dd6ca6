"""Batches that come several times in a row."""

import pytest
import torch

from art_sensreg.training.batches import BatchSizes, TensorBatches
from art_sensreg.training.batches.replayed import Replayed
from art_sensreg.training.distributed import Processes


def test_each_batch_comes_several_times_from_any_step():
    inner = TensorBatches(torch.rand(8, 2), torch.arange(8), BatchSizes(3))
    batches, plain = Replayed(inner, 3), list(inner.epoch(5, 0, Processes()))
    assert (len(batches), batches.count, batches.rewindable) == (9, 3, True)
    whole = list(batches.epoch(5, 0, Processes()))
    for number, batch in enumerate(whole):
        assert torch.equal(batch.x, plain[number // 3].x)
        assert torch.equal(batch.y, plain[number // 3].y)
        assert batch.indices.tolist() == list(range(batch.total))
    for first in range(10):
        rest = list(batches.epoch(5, first, Processes()))
        assert [batch.y.tolist() for batch in rest] == [batch.y.tolist() for batch in whole[first:]]


def test_the_largest_batch_counts():
    batches = Replayed(TensorBatches(torch.rand(7, 2), torch.arange(7), BatchSizes(3, least=2)), 2)
    assert batches.count == 4  # the last image has joined
    assert batches.look(2).shape == (2, 2)
    assert batches.state_dict() == {}
    with pytest.raises(StopIteration):
        next(batches.epoch(0, 4, Processes()))
