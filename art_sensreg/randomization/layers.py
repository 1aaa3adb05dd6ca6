"""Convolutions and linear layers that are random, at test time too: the user's own layers under another class."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class RandomLayer(nn.Module):
    """Base class of random layers; `randomize_` turns a layer into one, in place."""

    @classmethod
    def randomize_(cls, layer: nn.Module, **settings: Any) -> None:
        """Turn a layer of the base class into this one; its weights and their names stay the same."""
        layer.__class__ = cls
        assert isinstance(layer, cls)
        layer.add_randomness(**settings)

    def add_randomness(self, **settings: Any) -> None:
        """Take the settings, and add what is learned."""
        raise NotImplementedError


class NoisyInput(RandomLayer):
    """
    Gaussian noise on the input of a layer, independent for every image.

    | Paper link: https://arxiv.org/abs/1712.00673 (Liu et al. 2018, section 3.1)
    """

    std: float

    def add_randomness(self, std: float) -> None:  # type: ignore[override]
        self.std = std

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = super().forward(torch.add(x, torch.randn_like(x), alpha=self.std))
        return output

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, std={self.std}"


class RandomWeights(RandomLayer):
    """A layer whose weights are redrawn for every forward pass: all images of a batch share the draw."""

    def draw(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight and bias of one pass."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self.draw()
        if isinstance(self, nn.Linear):
            return functional.linear(x, weight, bias)
        output: torch.Tensor = self._conv_forward(x, weight, bias)  # type: ignore[operator]
        return output


class GaussianWeights(RandomWeights):
    """
    Independent Gaussian weights: means and standard deviations are learned (a mean-field variational posterior).

    | Paper link: https://arxiv.org/abs/1810.01279 (Liu et al. 2019, section 3.1)
    """

    prior_std: float
    initial_std: float
    weight_rho: nn.Parameter
    bias_rho: nn.Parameter | None

    def add_randomness(self, prior_std: float, initial_std: float) -> None:  # type: ignore[override]
        self.prior_std, self.initial_std = prior_std, initial_std
        rho = _inverse_softplus(initial_std)
        weight, bias = _parameters(self)
        self.weight_rho = self._like(weight, rho)
        self.bias_rho = None if bias is None else self._like(bias, rho)

    @staticmethod
    def _like(mean: torch.Tensor, rho: float) -> nn.Parameter:
        return nn.Parameter(torch.full_like(mean.detach(), rho), requires_grad=mean.requires_grad)

    def moments(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Means and standard deviations of weight and bias."""
        weight, bias = _parameters(self)
        pairs = [(weight, _softplus(self.weight_rho))]
        if bias is not None and self.bias_rho is not None:
            pairs.append((bias, _softplus(self.bias_rho)))
        return pairs

    def draw(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        drawn = [mean + std * torch.randn_like(mean) for mean, std in self.moments()]
        return drawn[0], drawn[1] if len(drawn) > 1 else None

    def reset_parameters(self) -> None:
        """Draw the means anew; the standard deviations start where they did."""
        super().reset_parameters()  # type: ignore[misc]
        with torch.no_grad():
            for rho in (self.weight_rho, self.bias_rho):
                if rho is not None:
                    rho.fill_(_inverse_softplus(self.initial_std))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, prior_std={self.prior_std}"


class NoisyWeights(RandomWeights):
    """
    Noise on the weights in proportion to their spread; the factor `alpha` is learned.

    | Paper link: https://arxiv.org/abs/1811.09310 (He, Rakin, Fan 2019, equations 3 and 4)
    """

    alpha: nn.Parameter
    initial_alpha: float

    def add_randomness(self, initial_alpha: float) -> None:  # type: ignore[override]
        self.initial_alpha = initial_alpha
        weight, _ = _parameters(self)
        self.alpha = nn.Parameter(weight.new_full((), initial_alpha), requires_grad=weight.requires_grad)

    def draw(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        # The spread is a constant for autograd, as in the authors' code.
        weight, bias = _parameters(self)
        noise = torch.randn_like(weight) * weight.detach().std(correction=0)
        return weight + self.alpha * noise, bias

    def reset_parameters(self) -> None:
        """Draw the weights anew; the factor starts where it did."""
        super().reset_parameters()  # type: ignore[misc]
        with torch.no_grad():
            self.alpha.fill_(self.initial_alpha)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, alpha={self.alpha.item():.3g}"


def _softplus(rho: torch.Tensor) -> torch.Tensor:
    """Softplus, not called as a non-linearity: penalties that look for hidden layers would take it for one."""
    return torch.logaddexp(rho, torch.zeros_like(rho))


def _inverse_softplus(value: float) -> float:
    return value + math.log(-math.expm1(-value))


def _parameters(layer: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias of a convolution or a linear layer."""
    return layer.weight, layer.bias


def _random(name: str, noise: type[RandomLayer], plain: type[nn.Module]) -> type[RandomLayer]:
    """A layer of torch with a kind of noise; the name is that of the variable, by which it is pickled."""
    return type(name, (noise, plain), {"__module__": __name__})


NoisyConv1d = _random("NoisyConv1d", NoisyInput, nn.Conv1d)
NoisyConv2d = _random("NoisyConv2d", NoisyInput, nn.Conv2d)
NoisyConv3d = _random("NoisyConv3d", NoisyInput, nn.Conv3d)
NoisyLinear = _random("NoisyLinear", NoisyInput, nn.Linear)
BayesianConv1d = _random("BayesianConv1d", GaussianWeights, nn.Conv1d)
BayesianConv2d = _random("BayesianConv2d", GaussianWeights, nn.Conv2d)
BayesianConv3d = _random("BayesianConv3d", GaussianWeights, nn.Conv3d)
BayesianLinear = _random("BayesianLinear", GaussianWeights, nn.Linear)
InjectedConv1d = _random("InjectedConv1d", NoisyWeights, nn.Conv1d)
InjectedConv2d = _random("InjectedConv2d", NoisyWeights, nn.Conv2d)
InjectedConv3d = _random("InjectedConv3d", NoisyWeights, nn.Conv3d)
InjectedLinear = _random("InjectedLinear", NoisyWeights, nn.Linear)

_PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
LAYERS: dict[str, dict[type[nn.Module], type[RandomLayer]]] = {
    "rse": dict(zip(_PLAIN, (NoisyConv1d, NoisyConv2d, NoisyConv3d, NoisyLinear), strict=True)),
    "bayesian": dict(zip(_PLAIN, (BayesianConv1d, BayesianConv2d, BayesianConv3d, BayesianLinear), strict=True)),
    "pni": dict(zip(_PLAIN, (InjectedConv1d, InjectedConv2d, InjectedConv3d, InjectedLinear), strict=True)),
}
