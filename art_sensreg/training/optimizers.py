"""Optimizers: what their step needs, which implementation it uses, and where their state is."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)


def needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    """
    Whether an optimizer's `step` evaluates the loss again, as sharpness-aware minimisation does: `step(closure)`.
    TypeError if it needs something else, or is `LBFGS`.
    """
    name = type(optimizer).__name__
    if isinstance(optimizer, torch.optim.LBFGS):
        raise TypeError(f"`optimizer` of the classifier is {name}; expected one that takes mini-batches.")
    if not callable(getattr(optimizer, "step", None)):
        raise TypeError(f"`optimizer` of the classifier is {optimizer!r}; expected a torch optimizer.")
    parameters = inspect.signature(optimizer.step).parameters
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters.values() if p.default is p.empty and p.kind not in free]
    needed = [parameter for parameter in needed if parameter != "self"]  # a scheduler has wrapped the method
    if needed not in ([], ["closure"]):
        raise TypeError(
            f"`optimizer` of the classifier is {name}, whose `step` needs {needed}; expected step(closure)."
        )
    two_steps = callable(getattr(optimizer, "first_step", None)) and callable(getattr(optimizer, "second_step", None))
    if two_steps and "closure" not in parameters:
        raise TypeError(
            f"`optimizer` of the classifier is {name}, which has `first_step` and `second_step`, and a `step` that "
            "takes no closure; expected step(closure), which does both."
        )
    return bool(needed) or two_steps


def plain_step(optimizer: torch.optim.Optimizer) -> None:
    """
    One step of an optimizer that needs no closure. TypeError if it needs one after all, which the signature of its
    `step` did not say.
    """
    try:
        optimizer.step()
    except Exception as error:
        if "closure" not in str(error).lower():
            raise
        raise TypeError(
            f"`optimizer` of the classifier is {type(optimizer).__name__}, whose `step` says in its first call that it "
            f"needs a closure ({error}); expected one that has `closure` as a required argument, or `first_step` and "
            "`second_step` beside it."
        ) from error


def check_precision(optimizer: torch.optim.Optimizer, precision: str) -> None:
    """
    Refuse a precision that needs a gradient scaler, which takes one evaluation of the loss a step, for an optimizer
    that takes more.
    """
    if precision == "float16" and needs_closure(optimizer):
        raise ValueError(
            f"`precision` is 'float16' and the optimizer {type(optimizer).__name__} evaluates the loss twice a step, "
            "for which there is no gradient scaler; expected 'float32' or 'bfloat16'."
        )


def inner_optimizers(optimizer: torch.optim.Optimizer) -> dict[str, torch.optim.Optimizer]:
    """The optimizers that an optimizer wraps, by the names of its attributes; its own `state_dict` may lack theirs."""
    own = vars(optimizer).items()
    return {n: v for n, v in own if isinstance(v, torch.optim.Optimizer) and v is not optimizer}


def load_inner_states(optimizer: torch.optim.Optimizer, states: dict[str, Any]) -> None:
    """Load the states of wrapped optimizers, by name. Groups that wrapper and wrapped share stay shared."""
    for name, inner in inner_optimizers(optimizer).items():
        if name in states:
            groups = optimizer.param_groups if len(inner.param_groups) == len(optimizer.param_groups) else None
            inner.load_state_dict(states[name])
            if groups is not None:
                inner.param_groups = groups


@contextmanager
def fused(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """
    Use the fused form of an optimizer where torch has one and the user has not chosen another.

    Example:
    >>> from art_sensreg.training.optimizers import fused
    >>> optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    >>> with fused(optimizer):
    ...     inside = optimizer.param_groups[0]["fused"]
    >>> inside, optimizer.param_groups[0]["fused"]
    (True, None)
    """
    chosen = _can_be_fused(optimizer)
    for group in optimizer.param_groups if chosen else []:
        group["fused"] = True
    try:
        yield
    finally:
        for group in optimizer.param_groups if chosen else []:  # not those of before: a checkpoint may have been loaded
            group["fused"] = None


def _can_be_fused(optimizer: torch.optim.Optimizer) -> bool:
    # The fused form wants its counters on the device of the weights.
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    steps = [state["step"] for state in optimizer.state.values() if "step" in state]
    near = all(isinstance(step, torch.Tensor) and step.device == p.device for step in steps for p in parameters[:1])
    return near and _may_be_fused(optimizer)


def _may_be_fused(optimizer: torch.optim.Optimizer) -> bool:
    """Whether torch has a fused form of it for its parameters, and the user has not chosen another."""
    if type(optimizer) not in _FUSED:
        return False
    chosen = any(group.get(name) for group in optimizer.param_groups for name in ("foreach", "fused", "differentiable"))
    declined = any(group.get("fused") is False for group in optimizer.param_groups)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    fitting = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") and not p.is_sparse for p in parameters)
    return fitting and not chosen and not declined


def match_layout(optimizer: torch.optim.Optimizer) -> None:
    """
    Lay the optimizer's averages out in memory as the weights are: fused kernels go through both as they lie.

    To be called after its state was loaded, or the layout of the weights has changed.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            same = isinstance(value, torch.Tensor) and value.shape == parameter.shape
            if same and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def match_device(optimizer: torch.optim.Optimizer) -> None:
    """
    Bring an optimizer's state to where its parameters are: it may have begun on another device.

    Counters (tensors of no dimension) stay on the CPU, where reading them costs nothing, unless the optimizer's kernels
    read them on the device: torch's own rule when a state is loaded.
    """
    fused_here = _may_be_fused(optimizer)
    for group in optimizer.param_groups:
        on_device = fused_here or bool(group.get("fused") or group.get("capturable"))
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            for name, value in state.items():
                if isinstance(value, torch.Tensor):
                    counter = value.ndim == 0 and parameter.ndim > 0
                    state[name] = value.to("cpu" if counter and not on_device else parameter.device)
