"""What a training run asks of the machine: memory that stays mapped, fused optimizers, a word before it is killed."""

from __future__ import annotations

import ctypes
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import nn

logger = logging.getLogger(__name__)

# Options of glibc's `mallopt` (malloc.h). Once one is set, glibc no longer adapts them; so what is put back at the end
# is where its own adaptation ends up in a process that has freed large blocks, not its starting point.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_ADAPTED = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 * 2**20, _TRIM_THRESHOLD: 64 * 2**20}

_FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)


@contextmanager
def buffers_kept(device: torch.device) -> Iterator[None]:
    """
    Keep freed memory in the process while training on the CPU.

    By default glibc gives each large activation back to the system when it is freed, and takes it again, page by page,
    in the next step, which costs a good part of a step. Other allocators and systems are left alone.

    :param device: Where training takes place.

    Example:
    >>> from art_sensreg.training.resources import buffers_kept
    >>> with buffers_kept(torch.device("cpu")):
    ...     total = torch.ones(3).sum().item()
    >>> total
    3.0
    """
    library = _glibc() if device.type == "cpu" else None
    if library is None:
        yield
        return
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        for option, value in _ADAPTED.items():
            library.mallopt(option, value)


def _glibc() -> Any:
    if not sys.platform.startswith("linux") or threading.current_thread() is not threading.main_thread():
        return None
    try:
        library = ctypes.CDLL(None)
    except OSError:
        return None
    return library if hasattr(library, "mallopt") and hasattr(library, "gnu_get_libc_version") else None


@contextmanager
def fused(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """
    Use the fused form of an optimizer where torch has one and the user has not chosen himself.

    :param optimizer: The optimizer; its groups are put back at the end.

    Example:
    >>> from art_sensreg.training.resources import fused
    >>> optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    >>> with fused(optimizer):
    ...     inside = optimizer.param_groups[0]["fused"]
    >>> inside, optimizer.param_groups[0]["fused"]
    (True, None)
    """
    chosen = _can_be_fused(optimizer)
    for group in optimizer.param_groups if chosen else []:
        group["fused"] = True
    try:
        yield
    finally:
        for group in optimizer.param_groups if chosen else []:  # not those of before: a checkpoint may have been loaded
            group["fused"] = None


# By the number of dimensions: images, and volumes or videos. Of others there is one layout only.
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


@contextmanager
def channels_last(model: nn.Module, optimizer: torch.optim.Optimizer, wanted: bool = True) -> Iterator[None]:
    """
    Lay weights out channels last inside; afterwards each lies as it did before, also after an error.

    :param model: The model.
    :param optimizer: Its optimizer, whose averages lie as the weights do.
    :param wanted: False: nothing is done.

    Example:
    >>> from art_sensreg.training.resources import channels_last
    >>> layer = nn.Conv2d(3, 4, 2)
    >>> before = layer.weight.stride()
    >>> with channels_last(layer, torch.optim.SGD(layer.parameters(), lr=0.1)):
    ...     inside = layer.weight.stride()
    >>> before, inside, layer.weight.stride() == before
    ((12, 4, 2, 1), (12, 1, 6, 3), True)
    """
    tensors = [*model.parameters(), *model.buffers()] if wanted else []
    before = [(tensor, tensor.stride()) for tensor in tensors if tensor.ndim in CHANNELS_LAST]
    for tensor, _ in before:
        tensor.data = tensor.data.contiguous(memory_format=CHANNELS_LAST[tensor.ndim])
    match_layout(optimizer)
    try:
        yield
    finally:
        for tensor, stride in before:
            if tensor.stride() != stride:
                values = tensor.data
                tensor.data = torch.empty_strided(values.shape, stride, dtype=values.dtype, device=values.device)
                tensor.data.copy_(values)
        match_layout(optimizer)


def match_layout(optimizer: torch.optim.Optimizer) -> None:
    """
    Lay the optimizer's averages out in memory as the weights are: fused kernels go through both as they lie.

    :param optimizer: The optimizer. Call it after its state was loaded, or the layout of the weights has changed.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            same = isinstance(value, torch.Tensor) and value.shape == parameter.shape
            if same and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def match_device(optimizer: torch.optim.Optimizer) -> None:
    """
    Bring what an optimizer remembers to where its parameters are: it may have begun on another device.

    Counters (tensors of no dimension) stay on the CPU, where reading them costs nothing, unless the optimizer's kernels
    read them on the device: torch's own rule when a state is loaded.

    :param optimizer: The optimizer.

    Example:
    >>> from art_sensreg.training.resources import match_device
    >>> match_device(torch.optim.Adam([torch.zeros(1, requires_grad=True)]))
    """
    fused_here = _may_be_fused(optimizer)
    for group in optimizer.param_groups:
        on_device = fused_here or bool(group.get("fused") or group.get("capturable"))
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            for name, value in state.items():
                if isinstance(value, torch.Tensor):
                    counter = value.ndim == 0 and parameter.ndim > 0
                    state[name] = value.to("cpu" if counter and not on_device else parameter.device)


def _can_be_fused(optimizer: torch.optim.Optimizer) -> bool:
    # The fused form wants its counters on the device of the weights.
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    steps = [state["step"] for state in optimizer.state.values() if "step" in state]
    near = all(isinstance(step, torch.Tensor) and step.device == p.device for step in steps for p in parameters[:1])
    return near and _may_be_fused(optimizer)


def _may_be_fused(optimizer: torch.optim.Optimizer) -> bool:
    """Whether torch has a fused form of it for its parameters, and the user has not chosen another."""
    if type(optimizer) not in _FUSED:
        return False
    chosen = any(group.get(name) for group in optimizer.param_groups for name in ("foreach", "fused", "differentiable"))
    declined = any(group.get("fused") is False for group in optimizer.param_groups)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    fitting = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") and not p.is_sparse for p in parameters)
    return fitting and not chosen and not declined


class StopRequest:
    """
    Context manager that turns SIGTERM and SIGINT into a request, so that the step is finished and a checkpoint written.

    A second signal acts at once. Outside of the main thread signals are left alone.

    Example:
    >>> from art_sensreg.training.resources import StopRequest
    >>> former = signal.signal(signal.SIGINT, signal.default_int_handler)
    >>> try:
    ...     with StopRequest() as request:
    ...         signal.raise_signal(signal.SIGINT)
    ...         print("finish the step")
    ... except KeyboardInterrupt:
    ...     print("stopped")
    finish the step
    stopped
    >>> handler = signal.signal(signal.SIGINT, former)
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._former: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) != signal.SIG_IGN:  # a job in the background of a shell
                    self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: Any, *exc: Any) -> None:
        for number in list(self._former):
            self._put_back(number)
        if kind is None:
            self.obey()  # it came after the last step

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._put_back(number)

    def _put_back(self, number: int) -> None:
        former = self._former.pop(number, None)
        if former is not None:
            signal.signal(number, former)

    def obey(self) -> None:
        """Do now what the signal would have done."""
        if self.signal is None:
            return
        number, self.signal = self.signal, None
        self._put_back(number)
        signal.raise_signal(number)
        raise SystemExit(128 + number)  # a handler of the user's own has returned
