"""Tensors of the emulated device: dense PrivateUse1 tensors on the memory of CPU storages."""

from __future__ import annotations

from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

NAME = "emu"
CPU_KEYS = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
aten = torch.ops.aten

# Device storages by address, each with the CPU storage whose memory it is: views of one tensor must share a storage.
_owners: dict[int, tuple[StorageWeakRef, torch.UntypedStorage]] = {}
_purge_at = [512]


def device() -> torch.device:
    return torch.device(NAME, 0)


def is_device(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.device.type == NAME


def is_host(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.device.type != NAME


def place(tensor: torch.Tensor, storage: Any, like: torch.Tensor) -> None:
    """Make `tensor` a view of `storage` as `like` is of its own."""
    aten.set_.source_Storage_storage_offset.redispatch(
        CPU_KEYS, tensor, storage, like.storage_offset(), list(like.size()), list(like.stride())
    )


def device_storage(cpu: torch.UntypedStorage) -> torch.UntypedStorage:
    pointer = cpu.data_ptr()
    known = _owners.get(pointer)
    if known is not None:
        alive = torch.UntypedStorage._new_with_weak_ptr(known[0].cdata)
        if alive is not None:
            return alive
    made = torch._C._construct_storage_from_data_pointer(pointer, device(), cpu.nbytes())
    if pointer:
        _owners[pointer] = (StorageWeakRef(made), cpu)
        if len(_owners) > _purge_at[0]:
            for key in [key for key, (weak, _) in list(_owners.items()) if weak.expired()]:
                del _owners[key]
            _purge_at[0] = 2 * len(_owners) + 512
    return made


def to_device(cpu: torch.Tensor) -> torch.Tensor:
    """The device tensor on the memory of a CPU tensor."""
    made = torch._C._acc.create_empty_tensor([0], cpu.dtype)
    place(made, device_storage(cpu.untyped_storage()), cpu)
    return made


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """The CPU tensor on the memory of a device tensor."""
    made = torch.empty(0, dtype=tensor.dtype)
    pointer = tensor.untyped_storage().data_ptr()
    storage = _owners[pointer][1] if pointer else torch.UntypedStorage(0)
    place(made, storage, tensor)
    return made
