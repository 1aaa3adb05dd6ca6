"""The torch functions that draw random numbers, and whether a given call draws any."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from art_sensreg.penalties.forward.nonlinearities import named_functions

Call = Callable[[Sequence[Any], dict[str, Any]], bool]

DROPOUTS: set[Callable[..., Any]] = {
    F.dropout,
    F.dropout1d,
    F.dropout2d,
    F.dropout3d,
    F.alpha_dropout,
    F.feature_alpha_dropout,
    torch.dropout,
}
"""Those that the stacked branches of a batch share."""


def of_parameter(value: Any) -> bool:
    """Whether a tensor is a parameter or a view of one, and not a function of the batch."""
    if not isinstance(value, torch.Tensor):
        return False
    return isinstance(value, nn.Parameter) or isinstance(value._base, nn.Parameter)


def drops_nothing(p: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether a call of dropout with probability `p` and these further arguments returns its input."""
    return p == 0 or not kwargs.get("training", kwargs.get("train", args[0] if args else True))


def _always(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    return True


def _not_like_weights(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Noise on weights is the same for all examples of a pass."""
    return not of_parameter(args[0] if args else kwargs.get("input"))


def _argument(name: str, position: int, default: Any = 0) -> Callable[[Sequence[Any], dict[str, Any]], Any]:
    return lambda args, kwargs: kwargs.get(name, args[position] if len(args) > position else default)


def _with(name: str, position: int, training: int | None = None) -> Call:
    """Of a function that draws if an argument is not 0, in training mode where it knows of one."""
    probability = _argument(name, position)
    mode = _argument("training", training, True) if training is not None else _always
    return lambda args, kwargs: bool(probability(args, kwargs)) and bool(mode(args, kwargs))


def _train(position: int, default: bool) -> Call:
    flag, other = _argument("training", position, None), _argument("train", position, default)

    def draws(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
        given = flag(args, kwargs)
        return bool(other(args, kwargs) if given is None else given)

    return draws


def _unsampled(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    return kwargs.get("_random_samples", args[5] if len(args) > 5 else None) is None


_DRAWN = """
rand randn randint randperm normal bernoulli multinomial poisson binomial _standard_gamma _sample_dirichlet
bernoulli_ uniform_ normal_ exponential_ geometric_ cauchy_ log_normal_ random_
"""
_LIKE = "rand_like randn_like randint_like"
_IN_TRAINING = """
dropout_ feature_dropout feature_dropout_ alpha_dropout alpha_dropout_ feature_alpha_dropout feature_alpha_dropout_
native_dropout
"""


DRAWS: dict[Callable[..., Any], Call] = {
    **dict.fromkeys(named_functions(_DRAWN, torch, torch.Tensor), _always),
    **dict.fromkeys(named_functions(_LIKE, torch), _not_like_weights),
    **dict.fromkeys(named_functions(_IN_TRAINING, torch), _train(2, True)),
    **dict.fromkeys(named_functions("rrelu rrelu_", torch, F), _train(3, False)),
    F.gumbel_softmax: _always,
    F.fractional_max_pool2d: _unsampled,
    F.fractional_max_pool3d: _unsampled,
    F.fractional_max_pool2d_with_indices: _unsampled,
    F.fractional_max_pool3d_with_indices: _unsampled,
    F.scaled_dot_product_attention: _with("dropout_p", 4),
    F.multi_head_attention_forward: _with("dropout_p", 10, training=13),
}
"""Those that they do not, each with a function of its arguments that tells whether the call draws."""
for _function in DROPOUTS:
    DRAWS.pop(_function, None)
