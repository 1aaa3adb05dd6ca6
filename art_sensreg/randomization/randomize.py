"""Randomised copies of deterministic networks."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from art_sensreg.penalties.forward.taps import trial
from art_sensreg.randomization.layers import LAYERS, RandomLayer
from art_sensreg.utils import check_choice, check_number, enable_grad
from art_sensreg.utils.checks import check_known

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@enable_grad()
def randomize(model: nn.Module, kind: str = "rse", **options: Any) -> nn.Module:
    """
    A randomised copy of a network, with its weights, their names and its mode.

    - `rse`, random self-ensemble (Liu et al. 2018, arXiv 1712.00673): Gaussian noise on the input of every convolution;
      in a network without any, of every linear layer. Options: `first_std` (0.2) for the first one, `std` (0.1) for the
      others.
    - `bayesian`, as in Adv-BNN (Liu et al. 2019, arXiv 1810.01279): independent Gaussian weights in every convolution
      and linear layer, with means that start at the given weights. Options: `prior_std` (0.1), see :class:`BayesianKL`;
      `initial_std` (0.02).
    - `pni`, parametric noise injection (He, Rakin, Fan 2019, arXiv 1811.09310): noise on all weights, in proportion to
      their spread, by a learned factor. Option: `initial_alpha` (0.25).

    All are random at test time too, and draw from torch's global generator: noise on inputs for every image, noise on
    weights once per forward pass. If the model reads a layer's weight without calling the layer, that layer stays
    deterministic: :func:`draws_differ` tells whether a model is random at all.

    :param model: Any `nn.Module` with convolutions or linear layers of torch; it is not changed.
    :param kind: `rse`, `bayesian` or `pni`.
    :param options: Options of the kind.
    :return: The randomised copy.
    :raises TypeError: If an argument has the wrong type, or an option is unknown.
    :raises ValueError: If a setting is out of range, or the model has no such layer, has random ones already, or has
        layers of a subclass.

    Example:
    >>> from art_sensreg.randomization import randomize
    >>> randomize(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), kind="rse", first_std=0.3)
    Sequential(
      (0): NoisyLinear(in_features=4, out_features=8, bias=True, std=0.3)
      (1): ReLU()
      (2): NoisyLinear(in_features=8, out_features=2, bias=True, std=0.1)
    )
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` is {type(model).__name__}; expected an nn.Module.")
    check_choice("kind", kind, tuple(LAYERS))
    settings = _settings(kind, options)
    _layers(model, kind)  # a model that cannot be randomised may not even be copyable
    copied = copy.deepcopy(model)
    layers = _layers(copied, kind)
    for module in copied.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            # In evaluation mode its fused kernel reads the weights and calls no layer: noise would be off at test time.
            module.activation_relu_or_gelu = 0
    for number, (_, layer) in enumerate(layers):
        LAYERS[kind][type(layer)].randomize_(layer, **settings(number))
    return copied


def is_randomized(model: nn.Module) -> bool:
    """
    Tell whether a model has random layers of this package.

    :param model: Any `nn.Module`.
    :return: True if it has.

    Example:
    >>> from art_sensreg.randomization import is_randomized, randomize
    >>> is_randomized(nn.Linear(2, 2)), is_randomized(randomize(nn.Linear(2, 2)))
    (False, True)
    """
    return any(isinstance(module, RandomLayer) for module in model.modules())


def _rse(first_std: float = 0.2, std: float = 0.1) -> Any:
    check_number("first_std", first_std, minimum=0.0)
    check_number("std", std, minimum=0.0)
    return lambda number: {"std": float(std if number else first_std)}


def _bayesian(prior_std: float = 0.1, initial_std: float = 0.02) -> Any:
    check_number("prior_std", prior_std, minimum=0.0, exclusive=True)
    check_number("initial_std", initial_std, minimum=0.0, exclusive=True)
    return lambda number: {"prior_std": float(prior_std), "initial_std": float(initial_std)}


def _pni(initial_alpha: float = 0.25) -> Any:
    check_number("initial_alpha", initial_alpha, minimum=0.0)
    return lambda number: {"initial_alpha": float(initial_alpha)}


_MAKERS: dict[str, Callable[..., Any]] = {"rse": _rse, "bayesian": _bayesian, "pni": _pni}


def _settings(kind: str, options: dict[str, Any]) -> Any:
    """Function of the layer's number, to its settings."""
    make = _MAKERS[kind]
    known = inspect.signature(make).parameters
    unknown = {name: value for name, value in options.items() if name not in known}
    check_known(f"randomize(kind={kind!r})", unknown, known)
    return make(**options)


def _layers(model: nn.Module, kind: str) -> list[tuple[str, nn.Module]]:
    """The layers to randomise, in the order in which the model has them."""
    if is_randomized(model):
        raise ValueError("`model` has random layers already; expected a deterministic network.")
    found = list(_candidates(model))
    convolutions: list[tuple[str, nn.Module]] = [
        (name, layer) for name, layer in found if isinstance(layer, _CONVOLUTIONS)
    ]
    chosen = convolutions if kind == "rse" and convolutions else found
    if not chosen:
        raise ValueError(f"`model` ({type(model).__name__}) has no Conv1d, Conv2d, Conv3d or Linear; expected one.")
    return chosen


def _candidates(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        if isinstance(module, (*_CONVOLUTIONS, nn.Linear)):
            kinds = {*_CONVOLUTIONS, nn.Linear}
            if type(module) not in kinds:
                if isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear):
                    continue  # attention reads its weights, and never calls it
                raise ValueError(
                    f"`model` has a layer {name or '(the model)'!r} of the class {type(module).__name__}; expected "
                    "torch's own Conv1d, Conv2d, Conv3d and Linear, without parametrizations."
                )
            if "weight" not in module._parameters:
                raise ValueError(
                    f"`model` has a layer {name or '(the model)'!r} whose weight is computed by a hook (weight_norm, "
                    "spectral_norm, pruning); expected plain weights."
                )
            if isinstance(module.weight, nn.parameter.UninitializedParameter):
                raise ValueError(f"`model` has a lazy layer {name!r}; expected one that has seen data.")
            yield name, module


def draws_differ(model: nn.Module, x: torch.Tensor) -> bool:
    """
    Tell whether a model is random in evaluation mode; no random state moves.

    :param model: Any `nn.Module`; it keeps its mode.
    :param x: Some inputs, `(n, ...)`.
    :return: True if two passes differ.

    Example:
    >>> from art_sensreg.randomization import draws_differ, randomize
    >>> draws_differ(nn.Dropout(), torch.ones(1, 4)), draws_differ(randomize(nn.Linear(4, 2)), torch.ones(1, 4))
    (False, True)
    """
    with trial(model, x):
        return not torch.equal(model(x.clone()), model(x.clone()))
