"""The plain PyTorch loops that times are divided by."""

import math

import pytest
import torch
from torch import nn

from art_sensreg.benchmark.step_cost.loops import (
    MODELS,
    epoch_loop,
    fgsm_step,
    hoffman_penalty,
    hoffman_step,
    make_bench,
)


def test_hoffman_penalty_is_half_the_squared_norm_in_expectation():
    model = nn.Linear(6, 4)
    x = torch.rand(20000, 6, requires_grad=True)
    expected = model.weight.pow(2).sum() / 2
    # One projection has a relative standard deviation below sqrt(2): 0.03 is three of the mean's.
    torch.testing.assert_close(hoffman_penalty(model(x), x), expected, rtol=0.03, atol=0)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_hoffman_and_fgsm_steps_train(precision):
    bench = make_bench(MODELS["mlp"], batch_size=8, steps=2, device="cpu", precision=precision)
    for step in (hoffman_step, fgsm_step):
        loss, accuracy = epoch_loop(bench, step)()
        assert math.isfinite(loss)
        assert 0 <= accuracy <= 1
