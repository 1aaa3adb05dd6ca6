"""TF32: from Ampere on, GPUs round the inputs of convolutions and matrix products to 11 bits, unless told not to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

TF32_SIGMA = 0.01
"""
Below this `sigma`, for an input range of length 1, finite differences are computed without TF32.

The difference of two nearly equal activations that are rounded to 11 bits is noise.
"""


def at_least_float32(value: torch.Tensor) -> torch.Tensor:
    """The tensor itself, or in float32 if its type has fewer bits."""
    return value.float() if value.itemsize < 4 else value


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Inside, float32 is computed in float32 on a GPU; afterwards TF32 is enabled where it was."""
    with ExitStack() as stack:
        if device.type == "cuda":
            _disable_in_products(stack)
            _disable_in_convolutions(stack)
        yield


def tf32_blurs(sigma: float | None, width: float = 1.0) -> bool:
    """Whether finite differences, divided by `sigma`, are too small for TF32; None if there are none."""
    return sigma is not None and sigma < TF32_SIGMA * width


def input_width(clip_values: tuple[torch.Tensor, torch.Tensor] | None) -> float:
    """Length of the range of inputs, of the widest feature; 1 if it is not known."""
    return 1.0 if clip_values is None else float((clip_values[1] - clip_values[0]).max())


# Torch has two interfaces and refuses to mix them: the one that is in use is used.


def _disable_in_products(stack: ExitStack) -> None:
    try:
        former = torch.get_float32_matmul_precision()
    except RuntimeError:
        _set(stack, torch.backends.cuda.matmul, "fp32_precision", "ieee")
        return
    if former != "highest":
        on_cpu = getattr(torch.backends.mkldnn, "matmul", None)  # which the old interface sets too
        if on_cpu is not None:
            stack.callback(setattr, on_cpu, "fp32_precision", on_cpu.fp32_precision)
        stack.callback(torch.set_float32_matmul_precision, former)
        torch.set_float32_matmul_precision("highest")


def _disable_in_convolutions(stack: ExitStack) -> None:
    cudnn: Any = torch.backends.cudnn
    try:
        allowed = cudnn.allow_tf32
    except RuntimeError:
        for setting in (cudnn.conv, cudnn.rnn):
            _set(stack, setting, "fp32_precision", "ieee")
        return
    if allowed:
        _set(stack, cudnn, "allow_tf32", False)


def _set(stack: ExitStack, holder: Any, name: str, value: Any) -> None:
    """Set an attribute until the stack is unwound."""
    stack.callback(setattr, holder, name, getattr(holder, name))
    setattr(holder, name, value)
