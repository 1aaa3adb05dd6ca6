"""
Which tensor is the activation where a non-linearity is only a factor of it: `x * sigmoid(x)`, GLU, a GELU by hand.

A call of `sigmoid`, `tanh` or ReLU6 may be a layer's activation, or the gate that a signal is multiplied with. Which of
the two shows in what its output is used for next: multiplied with another signal, it is a gate, and the product is the
activation; given to anything else, it is the activation itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from art_sensreg.penalties.forward.nonlinearities import named_functions


@dataclass(eq=False)
class Tap:
    """
    One activation that was read.

    `value` is what is kept of it, the activation itself or a copy; `version` tells later whether an in-place operation
    has overwritten it (None: not known).
    """

    name: str
    value: torch.Tensor
    version: int | None
    original: torch.Tensor


_GATES = frozenset({"sigmoid", "tanh", "hardsigmoid", "hardtanh", "relu6", "erf", "clamp"})
_TIMES = named_functions("mul mul_ multiply multiply_ __mul__ __rmul__ __imul__")
_OVER = named_functions("div div_ divide divide_ true_divide true_divide_ __truediv__ __itruediv__")
_PLUS = named_functions("add add_ sub sub_ subtract subtract_ rsub neg neg_ negative negative_ __rsub__")
_SAME_NUMBERS = named_functions("""
    view view_as reshape reshape_as flatten unflatten squeeze unsqueeze squeeze_ unsqueeze_ expand expand_as permute
    transpose t swapaxes movedim contiguous to float double half bfloat16 type type_as clone __getitem__ interpolate
    broadcast_to narrow select moveaxis repeat repeat_interleave tile
""")
_PARTS = named_functions("chunk split split_with_sizes tensor_split unbind")
_LOOKED_AT = named_functions("detach requires_grad_ retain_grad register_hook")
_DRAWS = named_functions("""
    rand randn rand_like randn_like randint randint_like bernoulli bernoulli_ normal normal_ uniform_ poisson
    exponential_ log_normal_ random_
""")


@dataclass(eq=False)
class _Open:
    """The output of a non-linearity, with what is an affine function of it: its use decides what it was."""

    kind: str  # gate, activation or product
    name: str
    aliases: list[torch.Tensor]
    taps: list[Tap] = field(default_factory=list)


class Gating:
    """
    Follows the outputs of non-linearities up to their use, and replaces gates, in the list of taps, by the products
    that they are part of.
    """

    def __init__(self, taps: list[Tap], record: Callable[[str, torch.Tensor], Tap | None]) -> None:
        self.taps, self.record = taps, record
        self._open: list[_Open] = []
        self._drawn: list[torch.Tensor] = []

    def opened(self, name: str, tap: Tap | None, inputs: Sequence[Any], output: Any) -> None:
        """A non-linearity has been called; `tap` is None for one that is not an activation by itself."""
        before = [entry for entry in map(self._entry, inputs) if entry is not None]
        for entry in before:
            self._close(entry)
        if not isinstance(output, torch.Tensor):
            return
        taps = [] if tap is None else [tap]
        if name == "tanh":  # of a softplus: the gate of Mish
            taps += [inner for entry in before for inner in entry.taps if inner.name == "softplus"]
        self._open.append(_Open("gate" if name in _GATES else "activation", name, [output], taps))

    def called(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], output: Any) -> None:
        """Another function has been called."""
        if func in _DRAWS:
            self._drawn = [*self._drawn[-7:], output]
            return
        if not self._open and not self._drawn:
            return
        inputs = [*args, *kwargs.values()]
        inputs += [item for group in inputs if isinstance(group, (list, tuple)) for item in group]
        self._spread_draws(inputs, output)
        for value in inputs:
            entry = self._entry(value)
            if entry is not None and entry in self._open:
                self._used(entry, value, func, inputs, output)

    def clear(self) -> None:
        """Let go of all tensors."""
        self._open.clear()
        self._drawn.clear()

    def _used(
        self, entry: _Open, value: torch.Tensor, func: Callable[..., Any], inputs: Sequence[Any], output: Any
    ) -> None:
        """`value`, an alias of `entry`, has been an argument."""
        if func in _LOOKED_AT or not isinstance(output, torch.Tensor):
            if isinstance(output, (list, tuple)) and any(isinstance(part, torch.Tensor) for part in output):
                self._close(entry)
                if func in _PARTS and entry.kind == "gate":  # several gates computed at once, of a GRU say
                    self._open += [_Open("gate", entry.name, [part], entry.taps) for part in output]
            return
        if func in _SAME_NUMBERS or getattr(func, "__name__", "") == "__get__":
            if value is inputs[0]:  # of others only the shape or the type is taken
                self._add_alias(entry, output)
            return
        others = [other for other in inputs if other is not value and isinstance(other, torch.Tensor)]
        signals = [other for other in others if self._is_signal(other, value)]
        if func in _TIMES and len(others) == 1 and signals:
            self._multiplied(entry, signals[0], output)
        elif not signals and (func in _TIMES or func in _PLUS or (func in _OVER and value is inputs[0])):
            if func not in _PLUS and not others:
                self._rescaled(entry, value, output)
            self._add_alias(entry, output)
        else:
            self._close(entry)

    def _multiplied(self, entry: _Open, signal: torch.Tensor, product: torch.Tensor) -> None:
        """A gate is replaced by the product; so is an activation whose product with a linear signal is a GLU."""
        other = self._entry(signal)
        factors = [factor for factor in (entry, other) if factor is not None]
        gates = [factor for factor in factors if factor.kind == "gate"]
        for factor in factors:
            self._close(factor)
        replaced = gates or ([] if len(factors) > 1 else factors)
        if not replaced:
            return
        gone = [tap for factor in replaced for tap in factor.taps]
        self.taps[:] = [tap for tap in self.taps if not any(tap is other for other in gone)]
        tap = self.record(f"{replaced[0].name} product", product)
        self._open.append(_Open("product", replaced[0].name, [product], [] if tap is None else [tap]))

    def _rescaled(self, entry: _Open, value: torch.Tensor, output: torch.Tensor) -> None:
        """`x * relu6(x + 3) / 6`: a number by which a product is multiplied belongs to the activation."""
        if entry.kind == "product" and entry.taps and value is entry.taps[0].original:
            (old,) = entry.taps
            new = self.record(old.name, output)
            if new is not None:
                self.taps.remove(new)
                self.taps[self.taps.index(old)] = new
                entry.taps = [new]

    def _add_alias(self, entry: _Open, value: torch.Tensor) -> None:
        if not any(alias is value for alias in entry.aliases):
            entry.aliases.append(value)

    def _close(self, entry: _Open) -> None:
        self._open = [other for other in self._open if other is not entry]

    def _entry(self, value: Any) -> _Open | None:
        for entry in self._open:
            for alias in entry.aliases:
                if alias is value:
                    return entry
        return None

    def _is_signal(self, other: torch.Tensor, like: torch.Tensor) -> bool:
        """Whether a factor comes from the batch: neither a weight, nor a constant, nor a mask that was drawn."""
        if isinstance(other, nn.Parameter) or any(other is drawn for drawn in self._drawn):
            return False
        same_rows = other.ndim > 0 and other.ndim == like.ndim and other.shape[0] == like.shape[0]
        return other.is_floating_point() and same_rows

    def _spread_draws(self, inputs: Sequence[Any], output: Any) -> None:
        """What is computed of drawn numbers alone is drawn as well: `(torch.rand(n, 1) < p).float() / p`."""
        if self._drawn and isinstance(output, torch.Tensor):
            tensors = [value for value in inputs if isinstance(value, torch.Tensor)]
            if tensors and all(any(value is drawn for drawn in self._drawn) for value in tensors):
                self._drawn = [*self._drawn[-7:], output]
