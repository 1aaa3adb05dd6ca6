"""The functions that the taps know: non-linearities, by every name that torch has for them, and gates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

_NONLINEARITIES = """
relu relu_ relu6 gelu silu mish elu elu_ selu selu_ celu celu_ leaky_relu leaky_relu_ prelu rrelu rrelu_ hardtanh
hardtanh_ hardswish hardsigmoid softplus softsign softshrink hardshrink tanhshrink threshold threshold_ logsigmoid
tanh tanh_ sigmoid sigmoid_ glu
"""


def named_functions(names: str, *owners: Any) -> dict[Callable[..., Any], str]:
    """Functions by name (`torch.relu`, `F.relu`, `Tensor.relu_`, ...), each with its plain name."""
    found = (
        (getattr(owner, name, None), name) for name in names.split() for owner in owners or (torch, F, torch.Tensor)
    )
    return {function: name.rstrip("_") for function, name in found if function is not None}


_WATCHED = {**named_functions(_NONLINEARITIES), torch.special.expit: "sigmoid"}
_CLAMPS = named_functions("clamp clamp_ clamp_min clamp_min_ clip clip_")
_ERFS = named_functions("erf erf_", torch, torch.Tensor, torch.special)


def watched_name(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> str | None:
    """The plain name of the non-linearity that a call is, or None. `x.clamp(min=0)` is a ReLU in disguise."""
    if func in _CLAMPS:
        low, high = _bounds(args, kwargs)
        return "relu" if isinstance(low, (int, float)) and low == 0 and high is None else None
    return _WATCHED.get(func)


def gate_name(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> str | None:
    """The plain name of a function that is only the gate of an activation, of a hand-written GELU or hard-swish."""
    if func in _CLAMPS:
        low, high = _bounds(args, kwargs)
        return "clamp" if isinstance(low, (int, float)) and low == 0 and isinstance(high, (int, float)) else None
    return "erf" if func in _ERFS else None


def _bounds(args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """The bounds of a call of `clamp`."""
    return args[1] if len(args) > 1 else kwargs.get("min"), args[2] if len(args) > 2 else kwargs.get("max")
