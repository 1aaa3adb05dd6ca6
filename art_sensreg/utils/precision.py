"""TF32: from Ampere on, GPUs round the inputs of convolutions and matrix products to 11 bits, unless told not to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

TF32_SIGMA = 0.01
"""
Below this `sigma`, for an input range of length 1, finite differences are computed without TF32.

The difference of two nearly equal activations that are rounded to 11 bits is noise.
"""


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Inside, float32 is computed in float32 on a GPU; afterwards TF32 is enabled where it was."""
    with ExitStack() as stack:
        if device.type == "cuda":
            stack.callback(_without_tf32_in_products())
            stack.callback(_without_tf32_in_convolutions())
        yield


def tf32_blurs(sigma: float | None, width: float = 1.0) -> bool:
    """Whether finite differences, divided by `sigma`, are too small for TF32; None if there are none."""
    return sigma is not None and sigma < TF32_SIGMA * width


def input_width(clip_values: tuple[torch.Tensor, torch.Tensor] | None) -> float:
    """Length of the range of inputs, of the widest feature; 1 if it is not known."""
    return 1.0 if clip_values is None else float((clip_values[1] - clip_values[0]).max())


def _without_tf32_in_products() -> Callable[[], None]:
    """Disable it, and return what restores it, by the one of torch's two interfaces that is in use: they do not mix."""
    try:
        former = torch.get_float32_matmul_precision()
    except RuntimeError:
        return _disabled(torch.backends.cuda.matmul)
    if former == "highest":
        return _no_op
    on_cpu = getattr(torch.backends.mkldnn, "matmul", None)  # which the old interface sets too
    kept = None if on_cpu is None else on_cpu.fp32_precision
    torch.set_float32_matmul_precision("highest")

    def restore() -> None:
        torch.set_float32_matmul_precision(former)
        if on_cpu is not None:
            on_cpu.fp32_precision = kept

    return restore


def _without_tf32_in_convolutions() -> Callable[[], None]:
    cudnn: Any = torch.backends.cudnn
    try:
        allowed = cudnn.allow_tf32
    except RuntimeError:
        convolutions, recurrent = _disabled(cudnn.conv), _disabled(cudnn.rnn)

        def restore() -> None:
            convolutions()
            recurrent()

        return restore
    if not allowed:
        return _no_op
    cudnn.allow_tf32 = False
    return lambda: setattr(cudnn, "allow_tf32", True)


def _disabled(setting: Any) -> Callable[[], None]:
    former = setting.fp32_precision
    setting.fp32_precision = "ieee"
    return lambda: setattr(setting, "fp32_precision", former)


def _no_op() -> None:
    pass
