"""Autograd where the caller has switched it off, and what it cannot use."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

_Function = TypeVar("_Function", bound=Callable[..., Any])


@contextmanager
def enable_grad() -> Iterator[None]:
    """
    `torch.enable_grad()` that works inside `torch.inference_mode()` too.

    Example:
    >>> from art_sensreg.utils import enable_grad
    >>> with torch.inference_mode(), enable_grad():
    ...     torch.ones(1, requires_grad=True).sum().requires_grad
    True
    """
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def preserve_grad(model: nn.Module) -> Iterator[None]:
    """
    Put the `.grad` of every weight back, which ART's own gradients replace.

    :param model: The model.

    Example:
    >>> from art_sensreg.utils.autograd import preserve_grad
    >>> model = nn.Linear(1, 1)
    >>> with preserve_grad(model):
    ...     model(torch.ones(1, 1)).sum().backward()
    >>> model.weight.grad is None
    True
    """
    kept = [(parameter, parameter.grad) for parameter in model.parameters()]
    # Into a gradient that is left in place, `backward` would add.
    for parameter, _ in kept:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in kept:
            parameter.grad = gradient


def outside_inference_mode(function: _Function) -> _Function:
    """
    Make a function that needs gradients on its way do the same inside of `torch.inference_mode()` as in `no_grad()`.

    Tensors that were made in that mode, which autograd refuses, are copied before they are given to it.

    :param function: Function whose tensors are among its own arguments.
    :return: The same function, with that decoration.

    Example:
    >>> from art_sensreg.utils import outside_inference_mode
    >>> slope = outside_inference_mode(lambda x: torch.func.grad(torch.sum)(x))
    >>> with torch.inference_mode():
    ...     slope(torch.zeros(2))
    tensor([1., 1.])
    """

    @functools.wraps(function)
    def outside(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_inference_mode_enabled() and not any(map(_refused, (*args, *kwargs.values()))):
            return function(*args, **kwargs)
        enabled = torch.is_grad_enabled()  # which leaving inference mode switches on
        with torch.inference_mode(False), torch.set_grad_enabled(enabled):
            args = tuple(value.clone() if _refused(value) else value for value in args)
            kwargs = {name: value.clone() if _refused(value) else value for name, value in kwargs.items()}
            return function(*args, **kwargs)

    return outside  # type: ignore[return-value]


def check_differentiable(model: nn.Module, name: str) -> None:
    """
    Refuse a model whose weights autograd cannot use.

    :param model: The model.
    :param name: What holds it, for the message.
    :raises ValueError: If some of them were made inside of `torch.inference_mode()`.

    Example:
    >>> from art_sensreg.utils import check_differentiable
    >>> check_differentiable(nn.Linear(1, 1), "estimator")
    """
    for own, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_inference():
            raise ValueError(
                f"`{name}` has `{own}` made inside of torch.inference_mode(), which autograd refuses; expected weights "
                "made outside, as copy.deepcopy(model) makes them there."
            )


def _refused(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_inference()
