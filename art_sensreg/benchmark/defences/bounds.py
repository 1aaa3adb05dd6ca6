"""
Interval bounds of networks (Gowal et al. 2018, arXiv 1810.12715): what every image within an L-inf ball and the image
range is mapped to, layer by layer, as centres and radii.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from art_sensreg.models import FeatureClassifier

# Rising in each number, so that the ends of an interval are mapped to the ends of its image.
_MONOTONE = (nn.ReLU, nn.LeakyReLU, nn.Softplus, nn.Sigmoid, nn.Tanh, nn.MaxPool2d)
_NORMALISING = (nn.BatchNorm1d, nn.BatchNorm2d)
_LINEAR = (nn.Flatten, nn.Identity, nn.AvgPool2d, nn.AdaptiveAvgPool2d)  # without weights: radii as centres


class UnboundedError(ValueError):
    """A network with a layer through which no bounds are known."""


class Intervals(NamedTuple):
    """Numbers between `centre - radius` and `centre + radius`, both of the shape of a batch."""

    centre: torch.Tensor
    radius: torch.Tensor

    @classmethod
    def between(cls, low: torch.Tensor, high: torch.Tensor) -> Intervals:
        """From both ends."""
        return cls((high + low) / 2, (high - low) / 2)

    @property
    def low(self) -> torch.Tensor:
        """The lower end."""
        return self.centre - self.radius

    @property
    def high(self) -> torch.Tensor:
        """The upper end."""
        return self.centre + self.radius


class Bounds(NamedTuple):
    """
    The bounds of a batch: of the input, of the input of each activation, and of how far the logit of the right class
    is at least above each other one, `(n, C)`; 0 for the right class itself.
    """

    images: Intervals
    preactivations: list[Intervals]
    margins: torch.Tensor

    def first(self, count: int) -> Bounds:
        """Those of the first images."""
        images, *inner = (Intervals(*(ends[:count] for ends in part)) for part in (self.images, *self.preactivations))
        return Bounds(images, inner, self.margins[:count])


def layers_in_sequence(model: nn.Module) -> list[nn.Module]:
    """The layers of a network, which end in a dense one. UnboundedError if they are no sequence, or one is unknown."""
    layers = list(_layers(model))
    for layer in layers:
        if not isinstance(layer, (nn.Linear, nn.Conv2d, *_MONOTONE, *_LINEAR, *_NORMALISING)):
            raise UnboundedError(f"interval bounds go through no {type(layer).__name__}")
        if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":
            raise UnboundedError(f"interval bounds go through no convolution with padding of {layer.padding_mode}")
    if not layers or not isinstance(layers[-1], nn.Linear):
        raise UnboundedError("interval bounds of margins need a network that ends in a dense layer")
    return layers


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    if isinstance(model, nn.Sequential):
        for child in model:
            yield from _layers(child)
    elif isinstance(model, FeatureClassifier):
        yield from _layers(model.features)
        yield from _layers(model.head)
    else:
        yield model


def propagate(layer: nn.Module, inputs: Intervals) -> Intervals:
    """The bounds of a layer's outputs."""
    centre, radius = inputs
    if isinstance(layer, nn.Linear):
        return Intervals(layer(centre), functional.linear(radius, layer.weight.abs()))
    if isinstance(layer, nn.Conv2d):
        settings: Any = (layer.stride, layer.padding, layer.dilation, layer.groups)
        return Intervals(layer(centre), functional.conv2d(radius, layer.weight.abs(), None, *settings))
    if isinstance(layer, _LINEAR):
        return Intervals(layer(centre), layer(radius))
    return Intervals.between(layer(inputs.low), layer(inputs.high))


def normalisation(layer: nn.BatchNorm1d | nn.BatchNorm2d, clean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    What a BatchNorm multiplies with and adds, `(1, channels, ...)`: by the statistics of the clean activations while it
    trains (Shi et al. 2021, arXiv 2103.17128, section 4.3), whose running means it leaves alone.
    """
    shape = (1, -1, *(1,) * (clean.ndim - 2))
    if layer.training:
        variance, mean = torch.var_mean(clean, [0, *range(2, clean.ndim)], correction=0)
    elif layer.running_mean is None or layer.running_var is None:
        raise UnboundedError("interval bounds of an image go through no BatchNorm whose statistics are the batch's")
    else:
        variance, mean = layer.running_var, layer.running_mean
    scale = (variance + layer.eps).rsqrt()
    scale = scale if layer.weight is None else scale * layer.weight
    shift = -mean * scale if layer.bias is None else layer.bias - mean * scale
    return scale.view(shape), shift.view(shape)


def interval_bounds(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, eps: float, clip_values: tuple[float, float] = (0.0, 1.0)
) -> Bounds:
    """
    The bounds of a network on everything within L-inf `eps` of images and within the image range.

    The last layer is elided: the margins are bounded through the differences of its rows, which is tighter than the
    difference of two bounds (Gowal et al. 2018, section 3).

    :param model: Layers in sequence: see :func:`layers_in_sequence`.
    :param x: Images, `(n, ...)`.
    :param y: Class indices, `(n,)`.
    :param eps: Size of the perturbations.
    :param clip_values: The image range.
    :return: The bounds, differentiable.
    :raises UnboundedError: If no bounds are known through a layer.
    """
    *layers, last = layers_in_sequence(model)
    low, high = clip_values
    images = bounds = Intervals.between((x - eps).clamp(low, high), (x + eps).clamp(low, high))
    preactivations = []
    # The clean activations are needed where a layer goes by their statistics.
    clean = x if any(isinstance(layer, _NORMALISING) and layer.training for layer in layers) else None
    for layer in layers:
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            scale, shift = normalisation(layer, bounds.centre if clean is None else clean)
            bounds = Intervals(bounds.centre * scale + shift, bounds.radius * scale.abs())
            clean = None if clean is None else clean * scale + shift
            continue
        if isinstance(layer, _MONOTONE) and not isinstance(layer, nn.MaxPool2d):
            preactivations.append(bounds)
        bounds = propagate(layer, bounds)
        clean = None if clean is None else layer(clean)
    assert isinstance(last, nn.Linear)
    rows = last.weight[:, None] - last.weight  # (C, C, width): what each class has above each other one
    offsets = 0.0 if last.bias is None else (last.bias[:, None] - last.bias)[y]
    centre = torch.einsum("ncw,nw->nc", rows[y], bounds.centre) + offsets
    radius = torch.einsum("ncw,nw->nc", rows.abs()[y], bounds.radius)
    return Bounds(images, preactivations, centre - radius)
