"""
An accelerator without having one: torch's PrivateUse1 device, whose tensors lie in the host's memory.

Mistakes of placement show on it as they do on CUDA: tensors of two devices do not mix, but for 0-d ones where CUDA
takes those; an index may be on the CPU; `numpy()` refuses; a generator must be the device's; backward runs in a thread
of its own. Seeded generators give the CPU's numbers, so results must equal the CPU's.

What it does not have: asynchrony, a limit of memory, cuDNN's and TF32's rounding, CUDA's random numbers, fused
recurrent and attention kernels, `torch.compile`, NCCL, a second device, speed.
"""

from __future__ import annotations

import functools
import types
from typing import Any

import torch
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from tests.device.backend.autocast import autocast_kernels
from tests.device.backend.generators import Generator, default_generators
from tests.device.backend.kernels import OWN_KERNELS, fallback, is_pinned, pin_memory
from tests.device.backend.memory import NAME, device_storage
from tests.device.counting import set_sync_debug_mode

_libraries: list[torch.library.Library] = []


class DeviceModule(types.ModuleType):
    """`torch.emu`, as `torch.cuda` is."""

    default_generators = default_generators
    is_available = staticmethod(lambda: True)
    is_initialized = staticmethod(lambda: True)
    init = staticmethod(lambda: None)
    _is_in_bad_fork = staticmethod(lambda: False)
    device_count = staticmethod(lambda: 1)
    current_device = staticmethod(lambda: 0)
    set_device = staticmethod(lambda device: None)
    set_sync_debug_mode = staticmethod(set_sync_debug_mode)
    synchronize = staticmethod(lambda device=None: None)
    empty_cache = staticmethod(lambda: None)
    is_bf16_supported = staticmethod(lambda: True)
    mem_get_info = staticmethod(lambda device=None: (2**34, 2**35))
    max_memory_allocated = memory_allocated = staticmethod(lambda device=None: 0)
    reset_peak_memory_stats = staticmethod(lambda device=None: None)
    get_amp_supported_dtype = staticmethod(lambda: [torch.float16, torch.bfloat16])
    get_device_name = staticmethod(lambda device=None: "emulated device on host memory")
    get_rng_state = staticmethod(lambda device=NAME: default_generators[0].get_state())
    set_rng_state = staticmethod(lambda state, device=NAME: default_generators[0].set_state(state))
    get_rng_state_all = staticmethod(lambda: [default_generators[0].get_state()])
    manual_seed = manual_seed_all = staticmethod(lambda seed: default_generators[0].manual_seed(seed))

    class device:
        """As `torch.cuda.device`."""

        def __init__(self, device: Any = None) -> None:
            pass

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *exc: Any) -> bool:
            return False


def install() -> None:
    """
    Make the device, once a process.

    :raises AttributeError: If this version of torch lacks a private name that it is made of.
    """
    if _libraries:
        return
    module = DeviceModule(f"torch.{NAME}")
    module.random = module
    _setup_privateuseone_for_python_backend(NAME, module)
    every = torch.library.Library("_", "IMPL")
    every.fallback(fallback, "PrivateUse1")
    every.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    own = torch.library.Library("aten", "IMPL")
    for name, kernel in OWN_KERNELS.items():
        own.impl(name, kernel, "PrivateUse1")
    for name, kernel in autocast_kernels():
        own.impl(name, kernel, "AutocastPrivateUse1")
    _libraries.extend([every, own])
    torch.__future__.set_swap_module_params_on_conversion(True)  # `.data =` takes no tensor of this device
    torch.Generator = Generator
    torch.Tensor.pin_memory, torch.Tensor.is_pinned = pin_memory, is_pinned
    torch.random.fork_rng = functools.partial(torch.random.fork_rng, device_type=NAME)
    setattr(torch.backends, NAME, torch.backends.cuda)  # TF32 can be switched on and off without a GPU
    _teach_storages()


def _teach_storages() -> None:
    """Make what stores and loads tensors know the device."""
    torch.serialization.register_package(
        1,
        lambda storage: f"{NAME}:0" if storage.device.type == NAME else None,
        lambda storage, place: device_storage(storage.clone()) if place.startswith(NAME) else None,
    )
    has_storage = torch._C._has_storage
    torch._C._has_storage = lambda tensor: tensor.device.type != NAME and has_storage(tensor)
    try:
        import safetensors.torch as safetensors
    except ImportError:
        return
    opened = safetensors.safe_open  # knows the names of devices by heart
    safetensors.safe_open = lambda *args, device="cpu", **kwargs: opened(
        *args, device="cpu" if str(device).startswith(NAME) else device, **kwargs
    )
