"""Undoing a step that does not count, or a failed run: buffers, gradients, modes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class SavedBuffers:
    """
    The buffers as they were before a step. They are in the stores, each module's `_buffers`; values other than tensors,
    and tensors that are trained, are left alone.
    """

    def __init__(self, stores: Iterable[MutableMapping[str, Any]]) -> None:
        self._stores = [store for store in stores if store]
        # Of each store, by name: the tensor, and a copy of what it held.
        self._kept: list[dict[str, tuple[torch.Tensor, torch.Tensor]]] = [{} for _ in self._stores]

    @torch.no_grad()
    def take(self) -> None:
        """Note the present values. (All of them: kernels that move running statistics leave no trace of it.)"""
        copies: list[torch.Tensor] = []
        values: list[torch.Tensor] = []
        for store, kept in zip(self._stores, self._kept, strict=True):
            for name, value in store.items():
                if not isinstance(value, torch.Tensor) or value.requires_grad:
                    continue
                known = kept.get(name)
                if known is None or (known[1].shape, known[1].dtype) != (value.shape, value.dtype):
                    kept[name] = value, value.detach().clone()
                else:
                    kept[name] = value, known[1]
                    copies.append(known[1])
                    values.append(value)
        if copies:
            torch._foreach_copy_(copies, values)

    @torch.no_grad()
    def restore(self) -> None:
        """Go back to the values that were noted last."""
        for store, kept in zip(self._stores, self._kept, strict=True):
            for name, (tensor, copy) in kept.items():
                if name in store:
                    store[name] = tensor
                    if not torch.equal(tensor, copy):  # what has not moved may not be writable
                        tensor.copy_(copy)


@contextmanager
def modes_on_error(modules: Sequence[nn.Module]) -> Iterator[None]:
    """After an exception every module has the mode that it had before."""
    modes = [(module, module.training) for module in modules]
    try:
        yield
    except BaseException:
        for module, training in modes:
            module.training = training
        raise


@contextmanager
def preserve_other_grad(parameters: Sequence[torch.Tensor], optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Parameters that the optimizer does not hold have the gradient afterwards that they had before."""
    before = [(parameter, parameter.grad) for parameter in parameters]
    try:
        yield
    finally:
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for parameter, gradient in before:
            if id(parameter) not in held:
                parameter.grad = gradient
