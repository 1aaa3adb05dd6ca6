"""Trees to store, how to compare them, and what a folder of checkpoints holds."""

import json
import math
import struct

import numpy as np
import torch

from art_sensreg.training.checkpoint.folder import (
    list_checkpoints,
)

SMALL = {"model": {"weight": torch.arange(6.0).reshape(2, 3)}, "losses": [0.1, math.inf], 'é\x1f"\\': (b"\x00", None)}


def same(a, b):
    """Equal to the last bit, and of the same type."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return (a.dtype, a.shape) == (b.dtype, b.shape) and same(tensor_bytes(a), tensor_bytes(b))
    if isinstance(a, np.ndarray):
        return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    if isinstance(a, float):
        return struct.pack(">d", a) == struct.pack(">d", b)
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(m, n) for m, n in zip(a.items(), b.items(), strict=True))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(m, n) for m, n in zip(a, b, strict=True))
    return a == b


def tensor_bytes(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def header(path):
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


WHOLE = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool]


FLOATING = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def steps(folder):
    return [int(path.name[11:-12]) for path in list_checkpoints(folder)]
