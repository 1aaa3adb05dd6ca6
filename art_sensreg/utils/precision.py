"""TF32: GPUs from Ampere on round what convolutions and matrix products read to 11 bits, unless told not to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

TF32_SIGMA = 0.01
"""
Below this `sigma` (of an input range of length 1) finite differences are computed without TF32.

The difference of two activations that are rounded to 11 bits is noise when they differ by little.
"""


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """
    Inside, float32 is computed in float32 on a GPU; afterwards TF32 is on where it was.

    :param device: Where it is computed; nothing is done but on a GPU.

    Example:
    >>> from art_sensreg.utils.precision import full_float32
    >>> with full_float32(torch.device("cpu")):
    ...     _ = torch.ones(1) @ torch.ones(1)
    """
    with ExitStack() as stack:
        if device.type == "cuda":
            stack.callback(_without_tf32_in_products())
            stack.callback(_without_tf32_in_convolutions())
        yield


def tf32_blurs(sigma: float | None, width: float = 1.0) -> bool:
    """
    Whether finite differences are too small for TF32.

    :param sigma: The `s` that they are divided by; None: there are none.
    :param width: Length of the range of inputs.

    Example:
    >>> from art_sensreg.utils.precision import tf32_blurs
    >>> tf32_blurs(0.001), tf32_blurs(0.3), tf32_blurs(0.3, width=255.0)
    (True, False, True)
    """
    return sigma is not None and sigma < TF32_SIGMA * width


def input_width(clip_values: tuple[torch.Tensor, torch.Tensor] | None) -> float:
    """
    Length of the range of inputs.

    :param clip_values: The range, as two tensors, or None.
    :return: That of the widest feature; 1 if none is known.

    Example:
    >>> from art_sensreg.utils.precision import input_width
    >>> input_width((torch.tensor(0.0), torch.tensor([1.0, 255.0])))
    255.0
    """
    return 1.0 if clip_values is None else float((clip_values[1] - clip_values[0]).max())


def _without_tf32_in_products() -> Callable[[], None]:
    """Switch it off, and return what puts it back. Torch refuses to mix its two interfaces: that in use is used."""
    try:
        former = torch.get_float32_matmul_precision()
    except RuntimeError:
        return _switched_off(torch.backends.cuda.matmul)
    if former == "highest":
        return _nothing
    on_cpu = getattr(torch.backends.mkldnn, "matmul", None)  # which the old interface sets too
    kept = None if on_cpu is None else on_cpu.fp32_precision
    torch.set_float32_matmul_precision("highest")

    def put_back() -> None:
        torch.set_float32_matmul_precision(former)
        if on_cpu is not None:
            on_cpu.fp32_precision = kept

    return put_back


def _without_tf32_in_convolutions() -> Callable[[], None]:
    cudnn: Any = torch.backends.cudnn
    try:
        allowed = cudnn.allow_tf32
    except RuntimeError:
        convolutions, recurrent = _switched_off(cudnn.conv), _switched_off(cudnn.rnn)

        def put_back() -> None:
            convolutions()
            recurrent()

        return put_back
    if not allowed:
        return _nothing
    cudnn.allow_tf32 = False
    return lambda: setattr(cudnn, "allow_tf32", True)


def _switched_off(setting: Any) -> Callable[[], None]:
    former = setting.fp32_precision
    setting.fp32_precision = "ieee"
    return lambda: setattr(setting, "fp32_precision", former)


def _nothing() -> None:
    pass
