"""Back to before a step that shall not count: buffers, gradients, modes; and whether what is kept is finite."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class BuffersBefore:
    """
    The buffers as they were before a step.

    :param stores: Where they are, by name: each module's `_buffers`. Other values than tensors, and tensors that are
        trained, are left alone.

    Example:
    >>> from art_sensreg.training.numerics.rollback import BuffersBefore
    >>> norm = nn.BatchNorm1d(1)
    >>> before = BuffersBefore([norm._buffers])
    >>> before.take()
    >>> _ = norm(torch.tensor([[float("nan")], [0.0]]))
    >>> before.restore()
    >>> norm.running_mean
    tensor([0.])
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


def first_not_finite(named: Mapping[str, torch.Tensor]) -> str | None:
    """
    Look for a tensor with NaN or infinite values; the host waits for the device once.

    :param named: Tensors by name; those that are no floating point numbers count as finite.
    :return: The name of the first, or None.

    Example:
    >>> from art_sensreg.training.numerics.rollback import first_not_finite
    >>> first_not_finite({"a": torch.ones(2), "b": torch.tensor([1.0, float("nan")])})
    'b'
    """
    numbers = {name: tensor for name, tensor in named.items() if tensor.is_floating_point() and tensor.numel()}
    if not numbers:
        return None
    device = next(iter(numbers.values())).device
    finite = torch.stack([torch.isfinite(tensor).all().to(device) for tensor in numbers.values()])
    return None if bool(finite.all()) else next(n for n, good in zip(numbers, finite.tolist(), strict=True) if not good)


def finite_buffers(model: nn.Module) -> set[str]:
    """
    The buffers that must stay finite: those that are. A mask of minus infinity is none of them.

    :param model: The model.
    :return: Their names.
    """
    named = {name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point() and buffer.numel()}
    if not named:
        return set()
    device = next(iter(named.values())).device
    finite = torch.stack([torch.isfinite(buffer).all().to(device) for buffer in named.values()]).tolist()
    return {name for name, good in zip(named, finite, strict=True) if good}


@contextmanager
def modes_on_error(modules: Sequence[nn.Module]) -> Iterator[None]:
    """
    After an exception every module has its former mode.

    :param modules: The modules.

    Example:
    >>> from art_sensreg.training.numerics.rollback import modes_on_error
    >>> model = nn.Dropout()
    >>> try:
    ...     with modes_on_error([model]):
    ...         _ = model.eval()
    ...         raise KeyboardInterrupt
    ... except KeyboardInterrupt:
    ...     print(model.training)
    True
    """
    modes = [(module, module.training) for module in modules]
    try:
        yield
    except BaseException:
        for module, training in modes:
            module.training = training
        raise


@contextmanager
def preserve_other_grad(parameters: Sequence[torch.Tensor], optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """
    Parameters that the optimizer does not hold have the gradient afterwards that they had before.

    :param parameters: All parameters that a step may differentiate by.
    :param optimizer: The optimizer.
    """
    before = [(parameter, parameter.grad) for parameter in parameters]
    try:
        yield
    finally:
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for parameter, gradient in before:
            if id(parameter) not in held:
                parameter.grad = gradient
