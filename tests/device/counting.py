"""What makes the host wait for the emulated device, and how many kernels it launches."""

from __future__ import annotations

import functools
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tests.device.backend.memory import aten

WATCHED = "art_sensreg"
"""The package whose lines are named as the places of transfers."""

ASYNCHRONOUS = ("H2D async", "D2H async")

# Operators after which the host needs a number of the device, and what their waiting is called.
WAITING = {
    aten._local_scalar_dense.default: "item", aten.nonzero.default: "nonzero", aten.masked_select.default: "nonzero",
    aten.equal.default: "item", aten._unique2.default: "nonzero", aten.unique_dim.default: "nonzero",
    aten.bincount.default: "item", aten.linalg_inv_ex.default: "item", aten._linalg_svd.default: "item",
    aten.repeat_interleave.Tensor: "item",
}  # fmt: skip

_NO_KERNEL = {aten.empty, aten.empty_strided, aten.new_empty, aten.set_, aten.resize_, aten._local_scalar_dense}
_transfers: list[Counter] = []
_warned = [False]
_kernels: list[Counter] = []


@contextmanager
def transfers() -> Iterator[Counter]:
    """Yield a counter of (kind, operator, line of the package) of what moves between host and device inside."""
    _transfers.append(Counter())
    try:
        yield _transfers[-1]
    finally:
        _transfers.pop()


@contextmanager
def kernels() -> Iterator[Counter]:
    """Yield a counter of the operators that launch a kernel inside."""
    _kernels.append(Counter())
    try:
        yield _kernels[-1]
    finally:
        _kernels.pop()


def waits(counter: Counter) -> Counter:
    """Of the transfers only those that the host waits for."""
    return Counter({key: number for key, number in counter.items() if key[0] not in ASYNCHRONOUS})


def set_sync_debug_mode(mode: str) -> None:
    """`torch.cuda.set_sync_debug_mode`: `warn` of what waits, or `default`."""
    _warned[0] = mode == "warn"


def note_transfer(kind: str, op: Any) -> None:
    warned = _warned[0] and kind not in ASYNCHRONOUS
    if not (_transfers or warned):
        return
    frame = sys._getframe(1)
    while frame.f_back is not None and f"/{WATCHED}/" not in frame.f_code.co_filename:
        frame = frame.f_back
    file = frame.f_code.co_filename
    if warned:
        warnings.warn_explicit("called a synchronizing CUDA operation", UserWarning, file, frame.f_lineno)
    if _transfers:
        inside = f"/{WATCHED}/" in file
        place = f"{WATCHED}/{file.rsplit(f'/{WATCHED}/')[-1]}:{frame.f_lineno}" if inside else "?"
        _transfers[-1][kind, str(op), place] += 1


def note_kernel(op: Any) -> None:
    if _kernels and _launches_kernel(op):
        _kernels[-1][str(op)] += 1


@functools.cache
def _launches_kernel(op: Any) -> bool:
    """Whether an operator runs something on the device, and is no view or allocation."""
    if isinstance(op, str):
        return True
    aliases = [argument.alias_info for argument in op._schema.returns]
    return op._overloadpacket not in _NO_KERNEL and not any(a is not None and not a.is_write for a in aliases)


def synchronised(op: torch._ops.OpOverload) -> None:
    """Note that an operator makes the host wait, if it does."""
    if op in WAITING:
        note_transfer(WAITING[op], op)
