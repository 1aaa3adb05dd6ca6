"""What an optimizer needs for its step: nothing, or a closure (sharpness-aware minimisation)."""

from __future__ import annotations

import inspect
from typing import Any

import torch


def needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    """
    Tell whether an optimizer's `step` evaluates the loss again.

    :param optimizer: The optimizer.
    :return: Whether `step(closure)` must be called.
    :raises TypeError: If its `step` needs something else, or it is `LBFGS`.

    Example:
    >>> from art_sensreg.training.optimizers import needs_closure
    >>> needs_closure(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1))
    False
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
    One step of an optimizer that needs no closure.

    :param optimizer: The optimizer, its gradients computed.
    :raises TypeError: If it needs one all the same, which its `step` did not say.
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
    Check that the steps of an optimizer can be done in a precision.

    :param optimizer: The optimizer.
    :param precision: As in `TrainingConfig`.
    :raises ValueError: If it needs a gradient scaler, which takes one evaluation of the loss a step.
    """
    if precision == "float16" and needs_closure(optimizer):
        raise ValueError(
            f"`precision` is 'float16' and the optimizer {type(optimizer).__name__} evaluates the loss twice a step, "
            "for which there is no gradient scaler; expected 'float32' or 'bfloat16'."
        )


def inner_optimizers(optimizer: torch.optim.Optimizer) -> dict[str, torch.optim.Optimizer]:
    """
    Optimizers that an optimizer wraps.

    :param optimizer: The optimizer.
    :return: They, by the names of its attributes.
    """
    own = vars(optimizer).items()
    return {n: v for n, v in own if isinstance(v, torch.optim.Optimizer) and v is not optimizer}


def inner_states(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """
    States of wrapped optimizers, which the wrapper's own `state_dict` may not have.

    :param optimizer: The optimizer.
    :return: Their states by name, for a checkpoint.
    """
    return {name: inner.state_dict() for name, inner in inner_optimizers(optimizer).items()}


def load_inner_states(optimizer: torch.optim.Optimizer, states: dict[str, Any]) -> None:
    """
    Take back what `inner_states` returned. Groups that wrapper and wrapped share stay shared.

    :param optimizer: The optimizer, its own state loaded.
    :param states: The same.
    """
    for name, inner in inner_optimizers(optimizer).items():
        if name in states:
            groups = optimizer.param_groups if len(inner.param_groups) == len(optimizer.param_groups) else None
            inner.load_state_dict(states[name])
            if groups is not None:
                inner.param_groups = groups
