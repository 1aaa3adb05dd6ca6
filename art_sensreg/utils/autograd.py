"""
Autograd helpers: gradients inside `no_grad`, preserved `.grad`, tensors it cannot use, where a graph leads, and where
images enter it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar

import torch
from torch import nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

_Function = TypeVar("_Function", bound=Callable[..., Any])
# The input gradient of a convolution with so few channels takes torch several times as long on a CPU as it need.
_FEW_CHANNELS = 3
_AT_ONCE = 2**20  # numbers, 4 MB: what fits the cache


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
    roots = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    return {id(node.variable) for node in _nodes(roots) if hasattr(node, "variable")}


def _nodes(roots: Iterable[Any]) -> set[Any]:
    """All nodes of the graphs that begin at some."""
    waiting = list(roots)
    seen = set(waiting)
    while waiting:
        for step, _ in waiting.pop().next_functions:
            if step is not None and step not in seen:
                seen.add(step)
                waiting.append(step)
    return seen


@dataclass(frozen=True)
class Entry:
    """
    The place where images enter a graph: the images, what a model is given, which are they or a copy, and its edge
    before the model may have worked in place.
    """

    images: torch.Tensor
    given: torch.Tensor
    edge: GradientEdge

    @classmethod
    def of(cls, images: torch.Tensor, given: torch.Tensor | None = None) -> Entry:
        """Of images that require grad, before the model has seen them, or the copy that it is given."""
        given = images if given is None else given
        return cls(images, given, get_gradient_edge(given))

    def gradient(self, result: torch.Tensor, retain_graph: bool = False) -> torch.Tensor | None:
        """
        The gradient of a scalar with respect to the images, or None if it does not depend on them.

        Where they act through a first convolution of few channels alone, on a CPU, torch's own is several times slower.
        """
        if not result.requires_grad:
            return None
        node = self._convolution(result)
        where = self.images if node is None else GradientEdge(node, 0)
        (found,) = torch.autograd.grad(result, where, allow_unused=True, retain_graph=retain_graph)
        if node is None or found is None:
            return found
        gradient = _by_input(node, self.given.shape, found)
        for hook in (self.given._backward_hooks or {}).values():  # as torch would call them
            replaced = hook(gradient)
            gradient = gradient if replaced is None else replaced
        return gradient

    def _convolution(self, result: torch.Tensor) -> Any:
        given = self.given
        few = given.ndim == 4 and given.shape[1] <= _FEW_CHANNELS and given.dtype in (torch.float32, torch.float64)
        if given.device.type != "cpu" or not few or given.retains_grad:
            return None
        users = _users(self.edge, result.grad_fn)
        if len(users) != 1 or users[0][1] != 0 or users[0][0].name() != "ConvolutionBackward0":
            return None
        node = users[0][0]
        plain = node._saved_groups == 1 and not node._saved_transposed
        return node if plain and hasattr(node.next_functions[1][0], "variable") else None


def _users(edge: GradientEdge, root: Any) -> list[tuple[Any, int]]:
    """The nodes of a graph that the edge's tensor is an argument of, each with the place of the argument."""
    wanted = (edge.node, edge.output_nr)
    return [
        (node, place) for node in _nodes([root]) for place, source in enumerate(node.next_functions) if source == wanted
    ]


@torch.no_grad()
def _by_input(node: Any, shape: torch.Size, by_output: torch.Tensor) -> torch.Tensor:
    """
    The gradient `(n, channels, height, width)` of a convolution's input, by that of its output: one matrix product for
    all pixels of the kernel, each of which is then added where it belongs.
    """
    weight = node.next_functions[1][0].variable.detach()
    channels, kernel = shape[1], weight.shape[2:]
    stride, padding, dilation = node._saved_stride, node._saved_padding, node._saved_dilation
    size = by_output.shape[2:]
    matrix = weight.flatten(1).t().contiguous()
    padded = by_output.new_zeros(*shape[:2], *(n + 2 * p for n, p in zip(shape[2:], padding, strict=True)))
    rows = max(1, _AT_ONCE // max(1, len(matrix) * size.numel()))
    for images, gradients in zip(padded.split(rows), by_output.split(rows), strict=True):
        products = torch.bmm(matrix.expand(len(gradients), -1, -1), gradients.flatten(2))
        parts = products.view(len(gradients), channels, *kernel, *size)
        for place in product(*map(range, kernel)):
            window = [
                slice(at * d, at * d + s * (n - 1) + 1, s)
                for at, d, s, n in zip(place, dilation, stride, size, strict=True)
            ]
            images[:, :, window[0], window[1]] += parts[:, :, place[0], place[1]]
    inside = [slice(p, p + n) for p, n in zip(padding, shape[2:], strict=True)]
    return padded[:, :, inside[0], inside[1]].contiguous()


def _is_inference(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_inference()
