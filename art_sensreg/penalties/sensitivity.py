"""SR, stochastic sensitivity regularisation: small input changes change every neuron's activation only a little."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from art_sensreg.penalties.base import FusedPenalty
from art_sensreg.penalties.feature_sigma import FeatureSigma, as_sigma, noise_sizes
from art_sensreg.penalties.forward.branches import Activations
from art_sensreg.penalties.forward.distances import pair_distance, paired_distance
from art_sensreg.penalties.forward.inner_ascent import ClipValues
from art_sensreg.penalties.forward.noise import NOISES, Randomness, draw_noise, draw_uniform
from art_sensreg.penalties.forward.taps import Layers, check_layers
from art_sensreg.penalties.inputs import Comparison, Sigma
from art_sensreg.utils import check_choice, check_count, check_flag, check_number, shown
from art_sensreg.utils.precision import at_least_float32

DISTANCES = ("squared", "absolute")
SCALES = ("per_neuron", "relative")


def layer_sensitivity(
    noisy: torch.Tensor,
    clean: torch.Tensor,
    sigma: Sigma,
    distance: str = "squared",
    scale: str = "per_neuron",
    detach_clean: bool = False,
) -> torch.Tensor:
    """
    Sensitivity of one layer, `(1/N_l) || a_l(x + s*xi) - a_l(x) ||^2 / s^2`, mean over the batch, a 0-d tensor.

    The distance `absolute` is the mean of `|.| / s`, which has no limit in terms of the Frobenius norm. The scale
    `relative` divides also by the layer's mean squared clean activation, detached (its root for `absolute`), so that
    the value is the same for all activations scaled alike. Its gradient, which does not see the size, shrinks them all
    the same: with a large weight, activations may shrink until training diverges. With `detach_clean` the gradient
    flows through the noisy side only.
    """
    _check_kinds(distance, scale)
    value = pair_distance(noisy, clean, distance == "absolute", detach_clean)
    value = value / (sigma**2 if distance == "squared" else sigma)
    return value / _size(_mean_square(clean), distance) if scale == "relative" else value


def stacked_sensitivity(
    layer: Activations,
    noisy: Sequence[int],
    sigma: Sigma,
    distance: str = "squared",
    scale: str = "per_neuron",
    detach_clean: bool = False,
) -> torch.Tensor:
    """:func:`layer_sensitivity`, mean over several noisy branches of one stacked pass, faster: see `distances`."""
    _check_kinds(distance, scale)
    assert layer.whole is not None
    sizes = [len(part) for part in layer.parts]
    starts = [sum(sizes[:i]) for i in noisy]
    rows = sizes[noisy[0]]
    value = paired_distance(layer.whole, rows, starts, distance == "absolute", detach_clean)
    value = value / (sigma**2 if distance == "squared" else sigma)
    return value if scale == "per_neuron" else value / _size(_mean_square(layer.parts[0][:rows]), distance)


def _check_kinds(distance: str, scale: str) -> None:
    check_choice("distance", distance, DISTANCES)
    check_choice("scale", scale, SCALES)


def _mean_square(clean: torch.Tensor) -> torch.Tensor:
    return at_least_float32(clean.detach()).pow(2).mean()


def _size(mean_square: torch.Tensor, distance: str) -> torch.Tensor:
    size = mean_square.clamp_min(torch.finfo(mean_square.dtype).tiny)
    return size if distance == "squared" else size.sqrt()


@dataclass(frozen=True, kw_only=True)
class SensitivityPenalty(FusedPenalty):
    """
    Stochastic regularisation of neural activation sensitivity (SR).

    `L_SR = sum_l w_l (1/N_l) E || a_l(x + s*xi) - a_l(x) ||^2 / s^2`, which for small `s` is
    `sum_l w_l ||da_l/dx||_F^2 / N_l`. A reconstruction from the abstract of the paper: see docs/method.md.

    | Paper link: https://arxiv.org/abs/2009.11349

    :param weight: Factor in the objective, at least 0.
    :param sigma: `s`, size of the noise in the user's input units (before any mean/std preprocessing); or a range
        `(low, high)` from which each step draws it; or an array that broadcasts to one input, with the size for each
        feature in its own unit: `s^2` in the formula is then the mean of their squares (see `FeatureSigma`).
    :param noise: `gaussian`, `uniform`, `rademacher` or `sphere`, each with unit variance per entry.
    :param layers: `hidden` (after the non-linearity; of a gate its product with the signal), `pre_activation`,
        `hidden+logits`, `logits`, or a list of module names and classes.
    :param layer_weights: `w_l`, one for each tapped layer in the order of the forward pass; None: 1 over their number.
    :param distance: `squared`, or `absolute` (no Frobenius limit).
    :param scale: `per_neuron`, or `relative` to the layer's mean squared clean activation.
    :param probes: Noisy copies per step.
    :param detach_clean: Whether gradients flow through the noisy side only.
    :param clip: Whether `x + s*xi` is clipped to the classifier's `clip_values` (the divisor stays `s`).
    :param top_layers: Penalise only so many of the layers, those most sensitive on each batch (a count, or a share
        above 0 and below 1, rounded up); None: all. `w_l` is then 1 over that number by default. With
        `scale="relative"` these are the most vulnerable layers of layer sustainability analysis (LSA, Khalooei et al.
        2022, arXiv 2202.02626), whose authors choose them once, before training.
    :raises ValueError: If an option is unknown or out of range.
    :raises TypeError: If an option has the wrong type.

    Example:
    >>> from art_sensreg import SensitivityPenalty
    >>> penalty = SensitivityPenalty(sigma=0.1, layers=["0"])
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> penalty(model, torch.rand(8, 4)).shape
    torch.Size([])
    """

    name: ClassVar[str] = "sensitivity"

    weight: float = 1.0
    sigma: float | tuple[float, float] | np.ndarray | FeatureSigma = 0.3
    noise: str = "gaussian"
    layers: Layers = "hidden"
    layer_weights: Sequence[float] | None = None
    distance: str = "squared"
    scale: str = "per_neuron"
    probes: int = 1
    detach_clean: bool = False
    clip: bool = False
    top_layers: int | float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "sigma", as_sigma(self.sigma, ranges=True))
        check_choice("noise", self.noise, NOISES)
        check_choice("distance", self.distance, DISTANCES)
        check_choice("scale", self.scale, SCALES)
        check_count("probes", self.probes)
        check_flag("detach_clean", self.detach_clean)
        check_flag("clip", self.clip)
        check_layers(self.layers)
        if self.layer_weights is not None:
            object.__setattr__(self, "layer_weights", _checked_weights(self.layer_weights))
        if self.top_layers is not None:
            _check_top_layers(self.top_layers)

    @property
    def tapped_layers(self) -> Layers:
        return self.layers

    @property
    def of_whole_batch(self) -> bool:
        return self.top_layers is not None

    def check_tapped(self, names: Sequence[str]) -> None:
        weights, top, listed = self.layer_weights, self.top_layers, ", ".join(names)
        if weights is not None and len(weights) != len(names):
            raise ValueError(
                f"`layer_weights` has {len(weights)} entries; expected {len(names)}, one for each tapped layer: "
                f"{listed}."
            )
        if top is not None and top > len(names):
            raise ValueError(f"`top_layers` is {top}; expected at most {len(names)}, the tapped layers: {listed}.")

    def branches(
        self, model: nn.Module, x: torch.Tensor, generator: Randomness, clip_values: ClipValues | None
    ) -> tuple[list[torch.Tensor], Sigma]:
        if self.clip and clip_values is None:
            raise ValueError("`clip` is True and no `clip_values` are known; expected a classifier that has them.")
        drawn: Any = self.sigma
        if isinstance(drawn, (tuple, list)):
            low, high = drawn
            drawn = low + (high - low) * draw_uniform(x, generator)
        size, sigma = noise_sizes(drawn, x)
        noisy = []
        for _ in range(self.probes):
            copy = draw_noise(x, self.noise, generator).mul_(size).add_(x)
            noisy.append(copy if not self.clip or clip_values is None else copy.clamp_(*clip_values))
        return noisy, sigma

    def evaluate(self, compared: Comparison, generator: Randomness) -> torch.Tensor:
        layers, first = compared.layers, compared.perturbed[0]
        relative, count = self.scale == "relative", self._penalised(len(layers))
        weights = [1 / count] * len(layers) if self.layer_weights is None else self.layer_weights
        values = [self._of_layer(layer, compared) for layer in layers]
        if relative or count < len(layers):
            clean = [layer.parts[0][: len(layer.parts[first])] for layer in layers] if relative else []
            means = [value.detach() for value in values] + [_mean_square(part) for part in clean]
            sensitivities, *squares = compared.over_processes(torch.stack(means)).split(len(layers))
            if relative:
                sizes = _size(squares[0], self.distance)
                sensitivities = sensitivities / sizes
                values = [value / size for value, size in zip(values, sizes, strict=True)]
            if count < len(layers):
                chosen = torch.zeros_like(sensitivities).scatter_(0, sensitivities.topk(count).indices, 1.0)
                values = [value * one for value, one in zip(values, chosen, strict=True)]
        return torch.stack([w * value for w, value in zip(weights, values, strict=True)]).sum()

    def _penalised(self, layers: int) -> int:
        """The number of layers that count."""
        top = layers if self.top_layers is None else self.top_layers
        return top if isinstance(top, int) else math.ceil(round(top * layers, 9))  # 0.28 * 25 is a little above 7

    def _of_layer(self, layer: Activations, compared: Comparison) -> torch.Tensor:
        """The sensitivity of one layer, not yet relative to its size."""
        noisy, sigma = compared.perturbed, compared.sigma
        if layer.whole is not None:
            return stacked_sensitivity(layer, noisy, sigma, self.distance, detach_clean=self.detach_clean)
        probes = [
            layer_sensitivity(layer.parts[i], layer.parts[0], sigma, self.distance, detach_clean=self.detach_clean)
            for i in noisy
        ]
        return torch.stack(probes).mean()


def _checked_weights(given: Any) -> tuple[float, ...]:
    try:
        weights = None if isinstance(given, (str, bytes, Mapping, Set)) else list(given)
    except TypeError:
        weights = None
    if weights is None:
        raise TypeError(f"`layer_weights` is {shown(given)}; expected a list of numbers.")
    if not weights:
        raise ValueError("`layer_weights` is empty; expected a number for each tapped layer, or None.")
    for weight in weights:
        check_number("layer_weights", weight, minimum=0.0)
    return tuple(map(float, weights))


def _check_top_layers(top: Any) -> None:
    if isinstance(top, float):
        check_number("top_layers", top, minimum=0.0, exclusive=True)
        if top >= 1:
            raise ValueError(f"`top_layers` is {top!r}; expected a count, or a share of the layers below 1.")
    else:
        check_count("top_layers", top)
