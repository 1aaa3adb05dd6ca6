"""Operators of the emulated device: devices are checked as CUDA checks them, and the CPU's kernels do the work."""

from __future__ import annotations

from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree

from tests.device.backend.generators import default_generators, is_device_generator
from tests.device.backend.memory import (
    CPU_KEYS,
    NAME,
    aten,
    device_storage,
    is_device,
    is_host,
    place,
    to_device,
    to_host,
)
from tests.device.counting import note_kernel, note_transfer, synchronised

# Besides binary pointwise operators: those that take a 0-d CPU tensor on CUDA, and those that take indices on the CPU.
_INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
_SCALARS = {aten.where, aten.masked_fill, aten.masked_fill_, aten.fill, aten.fill_, *_INDEXING}
_SCALARS |= {aten._fused_adam_, aten._fused_adamw_, aten._fused_sgd_}


def fallback(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Run any operator on the host's memory."""
    note_kernel(op)
    _check_devices(op, args, kwargs)
    synchronised(op)
    if op is aten._index_put_impl_.default and any(
        is_device(i) and i.dtype in (torch.bool, torch.uint8) for i in args[1]
    ):
        note_transfer("nonzero", op)
    args, kwargs = _with_generator(op, args, kwargs)
    pairs: dict[int, torch.Tensor] = {}
    before: dict[int, tuple] = {}

    def unwrap(value: Any) -> Any:
        if is_device(value):
            made = to_host(value)
            pairs[id(made)] = value
            before[id(made)] = (made, made.untyped_storage().data_ptr(), made.shape, made.stride())
            return made
        return torch.device("cpu") if isinstance(value, torch.device) and value.type == NAME else value

    args, kwargs = pytree.tree_map(unwrap, (tuple(args), kwargs))
    args = [_as_declared(value, argument) for value, argument in zip(args, op._schema.arguments, strict=False)]
    kwargs.pop("pin_memory", None)
    result = op(*args, **kwargs)
    if op._schema.is_mutable:
        for key, (made, pointer, shape, stride) in before.items():
            if (made.untyped_storage().data_ptr(), made.shape, made.stride()) != (pointer, shape, stride):
                place(pairs[key], device_storage(made.untyped_storage()), made)

    def wrap(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return pairs[id(value)] if id(value) in pairs else to_device(value)

    return pytree.tree_map(wrap, result)


def _as_declared(value: Any, argument: Any) -> Any:
    """The number that a Python number has become on the way here is a tensor, where the operator takes only those."""
    number = isinstance(value, (bool, int, float, complex))
    return torch.tensor(value) if number and argument.type.kind() == "TensorType" else value


def _with_generator(op: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The operator's arguments with a generator of the device: its default one where none is given."""
    names = [argument.name for argument in op._schema.arguments]
    if "generator" not in names:
        return args, kwargs
    position, args, own = names.index("generator"), list(args), kwargs.get("generator")
    if position < len(args):
        own = args.pop(position) if position == len(args) - 1 else args[position]
    if own is None:
        own = default_generators[0]
    elif not is_device_generator(own):
        raise RuntimeError(f"Expected a '{NAME}' device type for generator but found 'cpu'")
    return args, {**kwargs, "generator": own}


def _check_devices(op: Any, args: Any, kwargs: dict[str, Any]) -> None:
    tensors = [value for value in pytree.tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
    host = [tensor for tensor in tensors if is_host(tensor)]
    if not host:
        return
    if op._overloadpacket in _INDEXING and is_device(args[0]):
        for index in args[1]:
            if index is not None and is_host(index):
                note_transfer("H2D", op)
        host = [tensor for tensor in host if not any(tensor is index for index in args[1])]
    mutated = any(is_host(value) for value in _written(op, args, kwargs))
    read = len(tensors) - sum(name in kwargs for name in ("out", "grad_input"))
    scalars = op._overloadpacket in _SCALARS or (torch.Tag.pointwise in op.tags and read <= 2)
    if mutated or any(tensor.ndim for tensor in host) or (host and not scalars):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{NAME}:0 and cpu! ({op}: {', '.join(f'{tuple(t.shape)} on {t.device}' for t in tensors)})"
        )


def _written(op: Any, args: Any, kwargs: dict[str, Any]) -> list[Any]:
    """What an operator writes to."""
    named = {**dict(zip((argument.name for argument in op._schema.arguments), args, strict=False)), **kwargs}
    written = [a.name for a in op._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    return [value for name in written for value in pytree.tree_leaves(named.get(name))]


# --- copies ----------------------------------------------------------------------------------------------------------


def _copy_from(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    note_kernel("copy")
    if is_device(source) and is_device(target):
        to_host(target).copy_(to_host(source))
    elif is_device(target):
        note_transfer("H2D async" if non_blocking and is_pinned(source) else "H2D", "copy_")
        to_host(target).copy_(source)
    else:
        note_transfer("D2H async" if non_blocking else "D2H", "copy_")
        target.copy_(to_host(source))
    return target


_pinned: dict[int, StorageWeakRef] = {}


def is_pinned(tensor: torch.Tensor, device: Any = None) -> bool:
    weak = _pinned.get(tensor.untyped_storage().data_ptr())
    return weak is not None and not weak.expired()


def pin_memory(tensor: torch.Tensor, device: Any = None) -> torch.Tensor:
    """`Tensor.pin_memory`."""
    if is_device(tensor):
        raise RuntimeError(f"cannot pin 'torch.{NAME}.Tensor' only dense CPU tensors can be pinned")
    made = tensor.clone()
    for key in [key for key, weak in _pinned.items() if weak.expired()]:
        del _pinned[key]
    _pinned[made.untyped_storage().data_ptr()] = StorageWeakRef(made.untyped_storage())
    return made


# --- operators that have no fallback ---------------------------------------------------------------------------------


def _convolution(x, w, b, stride, padding, dilation, transposed, output_padding, groups):
    return fallback(aten.convolution.default, x, w, b, stride, padding, dilation, transposed, output_padding, groups)


def _convolution_backward(g, x, w, stride, padding, dilation, transposed, output_padding, groups, mask):
    return fallback(
        aten.convolution_backward.default,
        g, x, w, [w.shape[1] * groups if transposed else w.shape[0]],
        stride, padding, dilation, transposed, output_padding, groups, mask,
    )  # fmt: skip


def _native_dropout(x: torch.Tensor, p: float, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
    if not train:
        return x.clone(), torch.ones_like(x, dtype=torch.bool)
    mask = torch.empty_like(x, dtype=torch.bool).bernoulli_(1 - p)
    return x * mask * (1 / (1 - p) if p < 1 else 0.0), mask


def _gru_cell(input_gates, hidden_gates, hx, input_bias=None, hidden_bias=None):
    zeros = input_gates.new_zeros(input_gates.shape[1])
    i_reset, i_update, i_new = (input_gates + (zeros if input_bias is None else input_bias)).chunk(3, 1)
    h_reset, h_update, h_new = (hidden_gates + (zeros if hidden_bias is None else hidden_bias)).chunk(3, 1)
    reset, update = torch.sigmoid(i_reset + h_reset), torch.sigmoid(i_update + h_update)
    new = torch.tanh(i_new + reset * h_new)
    return new + update * (hx - new), torch.cat([reset, update, new, hx, h_new], 1)


def _gru_cell_backward(grad, workspace, has_bias):
    reset, update, new, hx, h_new = workspace.chunk(5, 1)
    g_update = grad * (hx - new) * (1 - update) * update
    g_new = grad * (1 - update) * (1 - new * new)
    g_reset = g_new * h_new * (1 - reset) * reset
    by_input = torch.cat([g_reset, g_update, g_new], 1)
    by_hidden = torch.cat([g_reset, g_update, g_new * reset], 1)
    biases = (by_input.sum(0), by_hidden.sum(0)) if has_bias else (None, None)
    return by_input, by_hidden, grad * update, *biases


def _set_storage(tensor: Any, storage: Any, offset: int = 0, size: Any = None, stride: Any = ()) -> Any:
    size = size if size is not None else [storage.nbytes() // tensor.itemsize]
    aten.set_.source_Storage_storage_offset.redispatch(CPU_KEYS, tensor, storage, offset, list(size), list(stride))
    return tensor


OWN_KERNELS = {
    "_copy_from": _copy_from,
    "convolution_overrideable": _convolution,
    "convolution_backward_overrideable": _convolution_backward,
    "native_dropout": _native_dropout,
    "_thnn_fused_gru_cell": _gru_cell,
    "_thnn_fused_gru_cell_backward": _gru_cell_backward,
    "set_.source_Storage_storage_offset": _set_storage,
    "set_.source_Storage": _set_storage,
}
