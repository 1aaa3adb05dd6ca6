"""TF32 is off where finite differences are small, and on again afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from art_sensreg.utils.precision import full_float32

GPU, MATMUL, CUDNN = torch.device("cuda"), torch.backends.cuda.matmul, torch.backends.cudnn
# What `set_float32_matmul_precision` sets beside CUDA's; None in torch below 2.9, whose interface is the old one alone.
ON_CPU = getattr(torch.backends.mkldnn, "matmul", None)


def state() -> tuple[Any, ...]:
    return MATMUL.fp32_precision, CUDNN.conv.fp32_precision, CUDNN.rnn.fp32_precision


def allowed() -> tuple[Any, ...]:
    return torch.get_float32_matmul_precision(), CUDNN.allow_tf32


@pytest.fixture(autouse=True)
def _kept() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")
    if ON_CPU is not None:
        ON_CPU.fp32_precision = "none"
    CUDNN.allow_tf32 = True


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@pytest.mark.parametrize("convolutions", [True, False])
def test_it_is_off_inside_and_as_before_afterwards(precision, convolutions):
    torch.set_float32_matmul_precision(precision)
    CUDNN.allow_tf32 = convolutions
    on_cpu = getattr(ON_CPU, "fp32_precision", None)

    def broken_off() -> None:
        with full_float32(GPU):
            assert allowed() == ("highest", False)
            raise KeyError

    with pytest.raises(KeyError):
        broken_off()
    assert allowed() == (precision, convolutions)
    assert getattr(ON_CPU, "fp32_precision", None) == on_cpu


def test_allowed_for_cuda_alone():
    MATMUL.allow_tf32 = True
    on_cpu = getattr(ON_CPU, "fp32_precision", None)
    with full_float32(GPU):
        assert not MATMUL.allow_tf32
    assert MATMUL.allow_tf32
    assert getattr(ON_CPU, "fp32_precision", None) == on_cpu


@pytest.mark.skipif(ON_CPU is None, reason="torch has the old interface alone")
def test_the_new_interface_of_torch():
    MATMUL.fp32_precision, CUDNN.conv.fp32_precision = "tf32", "ieee"  # the old one refuses to look at these
    before = state()
    with full_float32(GPU):
        assert state() == ("ieee", "ieee", "ieee")
    assert state() == before


def test_nothing_happens_on_the_cpu():
    torch.set_float32_matmul_precision("high")
    with full_float32(torch.device("cpu")):
        assert allowed() == ("high", True)
