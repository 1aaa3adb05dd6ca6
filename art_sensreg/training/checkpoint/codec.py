"""Any tree of tensors and plain values as tensors and JSON, and back."""

from __future__ import annotations

import json
import math
import struct
from collections import Counter, OrderedDict, defaultdict
from typing import Any

import numpy as np
import torch

DTYPES = {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
DTYPES |= {torch.float16, torch.bfloat16, torch.float32, torch.float64}
# Kinds of numpy whose bytes are the whole value; objects, records and numpy's variable strings hold more.
_ARRAY_KINDS, _SCALAR_KINDS = "biufcSUMm", "biufU"
_EXPECTED = (
    "tensors (dense, of bool, whole or floating point numbers), numpy arrays, numbers, strings, bytes, None, and dicts "
    "(keys: strings, numbers, None), lists and tuples of these"
)


def pack(tree: Any) -> tuple[dict[str, torch.Tensor], str]:
    """
    Take a tree of dicts, lists and tuples of tensors, numpy arrays, numbers, strings, bytes and None apart into
    tensors, named by their path in it, and JSON. TypeError if it holds anything else.

    The tensors may be the tree's own, but no two of them share memory. :func:`unpack` gives the same tree, but numpy's
    scalars become Python's, `OrderedDict` and `defaultdict` plain dicts (a `Counter` stays one, as `MultiStepLR` calls
    its methods), and parameters plain tensors.
    """
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(_to_json(tree, (), tensors), allow_nan=False)
    seen = set()
    for name, tensor in tensors.items():  # safetensors refuses shared memory
        storage = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return tensors, text


def unpack(tensors: dict[str, torch.Tensor], text: str) -> Any:
    """
    Put together what :func:`pack` took apart; the tree holds the tensors themselves, not copies. ValueError if the text
    does not come from :func:`pack`, or a tensor is missing.
    """
    return _from_json(json.loads(text), tensors)


def _to_json(value: Any, path: tuple[str, ...], tensors: dict[str, torch.Tensor]) -> Any:
    """Make JSON of a value: scalars and lists stay, all else is a dict of one tag; its tensors go into `tensors`."""
    if isinstance(value, torch.Tensor):
        return {"tensor": _add(value, path, tensors)}
    if type(value) is bytes:
        return {"bytes": _add(torch.from_numpy(np.array(bytearray(value), np.uint8)), path, tensors)}
    if type(value) is np.ndarray and value.dtype.kind in _ARRAY_KINDS:
        raw = _to_json(value.tobytes(), path, tensors)["bytes"]
        return {"array": raw, "dtype": value.dtype.str, "shape": list(value.shape)}
    if type(value) in (list, tuple):
        items = [_to_json(item, (*path, str(index)), tensors) for index, item in enumerate(value)]
        return items if type(value) is list else {"tuple": items}
    if type(value) in (dict, OrderedDict, defaultdict, Counter):
        pairs = []
        for key, item in value.items():
            inner = (*path, str(key))
            pairs.append([_scalar_to_json(key, inner), _to_json(item, inner, tensors)])
        return {"counter" if type(value) is Counter else "dict": pairs}
    return _scalar_to_json(value, path)


def _scalar_to_json(value: Any, path: tuple[str, ...]) -> Any:
    if isinstance(value, np.generic) and value.dtype.kind in _SCALAR_KINDS:
        value = value.item()
    if type(value) is float and not math.isfinite(value):
        return {"float": struct.pack(">d", value).hex()}  # JSON has none of these
    if type(value) is int and value.bit_length() > 63:
        return {"int": hex(value)}  # Python refuses decimals of thousands of digits
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise _refusal(type(value).__name__, path)


def _add(tensor: torch.Tensor, path: tuple[str, ...], tensors: dict[str, torch.Tensor]) -> str:
    if tensor.dtype not in DTYPES or tensor.layout is not torch.strided or tensor.is_meta:
        raise _refusal(f"tensor of {tensor.dtype}, {tensor.layout}, on {tensor.device}", path)
    # ASCII without control characters, which have more than one spelling in the header of the file.
    name = json.dumps("/".join(path) or "/")[1:-1]
    while name in tensors or name == "__metadata__":  # {1: ..., "1": ...}; the header's own word
        name += "'"
    tensors[name] = tensor.detach().cpu().contiguous()
    return name


def _refusal(what: str, path: tuple[str, ...]) -> TypeError:
    return TypeError(f"The tree holds a {what} at {'/'.join(path) or '/'!r}; expected {_EXPECTED}.")


def _from_json(node: Any, tensors: dict[str, torch.Tensor]) -> Any:
    match node:
        case {"tensor": str(name)} if name in tensors:
            return tensors[name]
        case {"bytes": str(name)} if name in tensors:
            return tensors[name].numpy().tobytes()
        case {"array": str(name), "dtype": str(dtype), "shape": list(shape)} if name in tensors:
            return tensors[name].numpy().copy().view(dtype).reshape(shape)
        case {"float": str(digits)}:
            return struct.unpack(">d", bytes.fromhex(digits))[0]
        case {"int": str(digits)}:
            return int(digits, 16)
        case {"tuple": list(items)}:
            return tuple(_from_json(item, tensors) for item in items)
        case {"dict": list(pairs)}:
            return {_from_json(key, tensors): _from_json(item, tensors) for key, item in pairs}
        case {"counter": list(pairs)}:
            return Counter({_from_json(key, tensors): _from_json(item, tensors) for key, item in pairs})
        case list():
            return [_from_json(item, tensors) for item in node]
        case dict():
            raise ValueError(f"it holds {str(node)[:80]!r}, which is unknown or has no tensor")
        case _:
            return node
