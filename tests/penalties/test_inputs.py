"""What a penalty is called with is checked."""

import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg.penalties.inputs import check_batch


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
