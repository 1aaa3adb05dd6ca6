"""Autograd helpers: gradients inside `no_grad`, preserved `.grad`, tensors it cannot use, and where a graph leads."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

_Function = TypeVar("_Function", bound=Callable[..., Any])


@contextmanager
def enable_grad() -> Iterator[None]:
    """`torch.enable_grad()` that works inside `torch.inference_mode()` too."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def preserve_grad(model: nn.Module) -> Iterator[None]:
    """Afterwards the `.grad` of every weight is what it was; ART's own gradients replace it."""
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
    Decorate a function that needs gradients so that it works inside `torch.inference_mode()` as in `no_grad()`.

    Tensors among its arguments that were made in that mode, which autograd refuses, are cloned.
    """

    @functools.wraps(function)
    def outside(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_inference_mode_enabled() and not any(map(_is_inference, (*args, *kwargs.values()))):
            return function(*args, **kwargs)
        enabled = torch.is_grad_enabled()  # which leaving inference mode enables
        with torch.inference_mode(False), torch.set_grad_enabled(enabled):
            args = tuple(value.clone() if _is_inference(value) else value for value in args)
            kwargs = {name: value.clone() if _is_inference(value) else value for name, value in kwargs.items()}
            return function(*args, **kwargs)

    return outside  # type: ignore[return-value]


def safe_root(squares: torch.Tensor) -> torch.Tensor:
    """The square root with gradient 0, not infinite, at 0."""
    positive = squares > 0
    return torch.where(positive, torch.where(positive, squares, 1.0).sqrt(), 0.0)


def check_differentiable(model: nn.Module, name: str) -> None:
    """Refuse a model with weights or buffers made inside `torch.inference_mode()`, which autograd cannot use."""
    for own, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_inference():
            raise ValueError(
                f"`{name}` has `{own}` made inside torch.inference_mode(), which autograd refuses; expected weights "
                "made outside, as copy.deepcopy(model) makes them there."
            )


def reached(tensors: Sequence[torch.Tensor], parameters: Iterable[nn.Parameter]) -> list[bool]:
    """For each tensor, whether its graph leads to one of the parameters; nothing is differentiated."""
    wanted = {id(parameter) for parameter in parameters}
    known: dict[Any, bool] = {}

    def leads(root: Any) -> bool:
        waiting = [root]
        while waiting:
            node = waiting[-1]
            following = [step for step, _ in node.next_functions if step is not None]
            unknown = [step for step in following if step not in known]
            if node in known or not unknown:
                own = id(getattr(node, "variable", None)) in wanted
                known[node] = own or any(known[step] for step in following)
                waiting.pop()
            else:
                waiting.extend(unknown)
        return known[root]

    return [id(tensor) in wanted or (tensor.grad_fn is not None and leads(tensor.grad_fn)) for tensor in tensors]


def leaves(tensors: Iterable[torch.Tensor]) -> set[int]:
    """The `id` of every leaf that the graphs of the tensors lead to."""
    waiting = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    seen: set[Any] = set(waiting)
    while waiting:
        for step, _ in waiting.pop().next_functions:
            if step is not None and step not in seen:
                seen.add(step)
                waiting.append(step)
    return {id(node.variable) for node in seen if hasattr(node, "variable")}


def _is_inference(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_inference()
