"""Which weights autograd leads to, read from the graph: nothing is differentiated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn


def reached(tensors: Sequence[torch.Tensor], parameters: Iterable[nn.Parameter]) -> list[bool]:
    """For each tensor, whether autograd leads from it to one of the parameters."""
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
    """The `id` of every leaf that autograd leads to from the tensors."""
    waiting = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    seen: set[Any] = set(waiting)
    while waiting:
        for step, _ in waiting.pop().next_functions:
            if step is not None and step not in seen:
                seen.add(step)
                waiting.append(step)
    return {id(node.variable) for node in seen if hasattr(node, "variable")}
