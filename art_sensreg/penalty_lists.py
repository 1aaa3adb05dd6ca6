"""Lists of penalties as given by users: checked, named, and without those that are switched off."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from itertools import count
from typing import Any

import torch

from art_sensreg.adversaries import Adversary
from art_sensreg.penalties.base import FusedPenalty, check_together
from art_sensreg.utils import check_number
from art_sensreg.utils.checks import check_known

Penalty = Callable[..., torch.Tensor]
# Names that a penalty cannot have: entries of the history, and terms of the loop's own.
HISTORY_KEYS = (
    *("loss", "base", "adversarial", "gradient", "epoch", "accuracy", "learning_rate", "seconds", "skipped"),
    *("val_loss", "val_accuracy", "val_robust_accuracy", "pgd_accuracy", "fgsm_accuracy", "catastrophic_overfitting"),
    *("gradient_cosine", "overfitting_predicted"),
)


def check_penalties(penalties: Any, adversary: Adversary | None = None) -> tuple[Penalty, ...]:
    """
    Check a sequence of penalties: the package's own, plain functions, or objects with `__call__(model, x, y)`, which
    may have a `weight` (default 1) and a `name` (default: its function's or class's name).

    TypeError if it is not a sequence, or an entry is not callable; ValueError if a weight is negative or not finite, or
    a penalty needs the noise of another, or the images of an adversary, that is missing.
    """
    if isinstance(penalties, (str, bytes)) or not isinstance(penalties, Sequence):
        raise TypeError(f"`penalties` is {penalties!r}; expected a list of penalties.")
    for penalty in penalties:
        if isinstance(penalty, type) or not callable(penalty):
            raise TypeError(f"`penalties` holds {penalty!r}; expected objects to be called as penalty(model, x, y).")
        check_number("weight", getattr(penalty, "weight", 1.0), minimum=0.0)
    active = active_penalties(penalties)
    if adversary is None or adversary.pair == "noisy":
        check_together(active)
    elif adversary.pair == "start" and any(isinstance(p, FusedPenalty) and p.compares for p in active):
        alone = [penalty for penalty in active if isinstance(penalty, FusedPenalty) and not penalty.compares]
        if alone:
            raise ValueError(
                f"`pair` is 'start' and `penalties` holds {alone[0]!r}, which compares no activations and needs a pass "
                "over the clean images; expected penalties that compare (SensitivityPenalty, "
                "JacobianPenalty(estimator='finite_difference')), or another `pair`."
            )
    return tuple(penalties)


def one_penalty(kind: Any, penalty: Any, settings: dict[str, Any]) -> Any:
    """A penalty that was given, or one made of settings; not both."""
    known = [field.name for field in fields(kind)]
    unknown = {name: value for name, value in settings.items() if name not in known}
    check_known(f"{kind.__name__}()", unknown, known)
    if penalty is None:
        return kind(**settings)
    if settings:
        raise TypeError(f"`penalty` and `{next(iter(settings))}` are both given; expected one of them.")
    if not isinstance(penalty, kind):
        raise TypeError(f"`penalty` is {penalty!r}; expected a {kind.__name__}.")
    return penalty


def active_penalties(penalties: Sequence[Penalty]) -> list[Penalty]:
    """The penalties that are computed at all: those whose weight is not 0."""
    return [penalty for penalty in penalties if getattr(penalty, "weight", 1.0) > 0]


def unique_names(penalties: Sequence[Penalty]) -> list[str]:
    """Names under which penalties stand beside the other entries of the history."""
    names: list[str] = []
    for penalty in penalties:
        wanted = getattr(penalty, "name", None) or getattr(penalty, "__name__", None) or type(penalty).__name__
        free = (f"{wanted}_{number}" if number > 1 else wanted for number in count(1))
        names.append(next(name for name in free if name not in names and name not in HISTORY_KEYS))
    return names


def check_term(name: str, value: Any) -> torch.Tensor:
    """Check that a term of the loss is a 0-d tensor, and return it."""
    if not isinstance(value, torch.Tensor) or value.ndim:
        came = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else f"{value!r}"
        raise TypeError(f"The term `{name}` is {came}; expected a 0-d tensor (for a loss: reduction='mean').")
    return value


def described(
    penalties: Mapping[str, Penalty], weights: Mapping[str, float], adversary: Adversary | None
) -> dict[str, str]:
    """What the adversary and each penalty is, by name: its `repr`, where that says more than an address in memory."""
    found = {} if adversary is None else {"adversary": repr(adversary)}
    for name, penalty in penalties.items():
        own = type(penalty).__qualname__ if " at 0x" in repr(penalty) else repr(penalty)
        found[name] = f"{getattr(penalty, '__qualname__', own)}, weight {weights[name]:g}"
    return found
