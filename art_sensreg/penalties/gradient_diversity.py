"""GradDiv: makes the input gradients of a random network's draws point in different directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from art_sensreg.penalties.inputs import check_batch
from art_sensreg.penalties.loss_gradients import direction_loss, loss_gradients
from art_sensreg.utils import check_choice, check_count, check_number, outside_inference_mode, python_numbers

KINDS = ("kappa", "mean", "dpp")
# At `R = 1` the concentration is infinite: it is cut where all gradients agree to three digits or so.
_LARGEST_R = 0.999


def unit_gradients(gradients: torch.Tensor) -> torch.Tensor:
    """
    Gradients `(samples, n, ...)` scaled to unit length, flattened; those that are zero stay zero, with a finite
    derivative.

    So do those so small (1e-31 in float32) that the derivative of their direction could overflow.
    """
    flat = gradients.flatten(2)
    # Squares of the tiny gradients of a confident network would underflow.
    largest = flat.detach().abs().amax(2, keepdim=True)
    limits = torch.finfo(flat.dtype)
    known = ~(largest <= limits.tiny / limits.eps)  # NaN stays NaN
    scaled = torch.where(known, flat, torch.zeros_like(flat)) / torch.where(known, largest, torch.ones_like(largest))
    squares = scaled.pow(2).sum(2, keepdim=True)
    return scaled / torch.where(squares == 0, torch.ones_like(squares), squares).sqrt()


def mean_resultant_length(units: torch.Tensor) -> torch.Tensor:
    """
    `R = ||mean_i g_i||`: 1 where all unit gradients agree, about `1/sqrt(n)` where they are isotropic.

    Of `(samples, n, d)`, `(n,)`; its derivative is 0 where R is.
    """
    squares = units.mean(0).pow(2).sum(1)
    none = squares == 0
    return torch.where(none, 0.0, torch.where(none, torch.ones_like(squares), squares).sqrt())


def concentration(length: torch.Tensor, d: int) -> torch.Tensor:
    """
    `kappa = R (d - R^2) / (1 - R^2)`, an estimate of the concentration of a von Mises-Fisher distribution.

    Above 0.999 `R` counts as 0.999, with the derivative there; `d` is the dimension of an input.

    | Paper link: https://arxiv.org/abs/2107.02425 (Lee et al. 2022; the estimate: Banerjee et al. 2005)
    """
    cut = length - (length - _LARGEST_R).clamp_min(0).detach()
    return cut * (d - cut**2) / (1 - cut**2)


def mean_pairwise_cosine(units: torch.Tensor) -> torch.Tensor:
    """Mean cosine of all pairs of different draws: `(n R^2 - 1) / (n - 1)` for unit vectors, of at least two."""
    n = len(units)
    # Zero gradients count with length 0: the sum over pairs is the square of the sum less the squares.
    pairs = units.sum(0).pow(2).sum(1) - units.pow(2).sum((0, 2))
    return pairs / (n * (n - 1))


def negative_log_volume(units: torch.Tensor, delta: float) -> torch.Tensor:
    """`-log det(G G^T + delta I)`: of a determinantal point process, large where some gradients are alike."""
    rows = units.transpose(0, 1)
    with torch.autocast(units.device.type, enabled=False):  # there is no determinant in half precision
        gram = rows @ rows.transpose(1, 2)
        return -torch.logdet(gram + delta * torch.eye(len(units), dtype=gram.dtype, device=gram.device))


def draw_gradients(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, samples: int, create_graph: bool = False
) -> torch.Tensor:
    """
    Gradients of the loss with respect to the input, for several draws of a random model, one pass each: `(samples, n,
    ...)`; those of half precision in float32.

    See :func:`~art_sensreg.penalties.loss_gradients.loss_gradients`; the loss is its `direction_loss`.
    """
    check_batch(model, x)
    return torch.stack(
        [loss_gradients(model, x, lambda logits: direction_loss(logits, y), create_graph) for _ in range(samples)]
    )


def gradient_cosine(model: nn.Module, x: torch.Tensor, y: torch.Tensor, samples: int = 32) -> float:
    """
    Mean pairwise cosine of the gradients of a random model's draws, the measure of GradDiv's success.

    From about 0 (isotropic) to 1 (not random); `samples` is at least 2, the rest as for :func:`draw_gradients`.

    Example:
    >>> from art_sensreg.penalties.gradient_diversity import gradient_cosine
    >>> round(gradient_cosine(nn.Linear(4, 2), torch.rand(3, 4), torch.tensor([0, 1, 0])), 4)
    1.0
    """
    check_count("samples", samples, minimum=2)
    return float(mean_pairwise_cosine(unit_gradients(draw_gradients(model, x, y, samples))).mean())


@dataclass(frozen=True, kw_only=True)
class GradientDiversityPenalty:
    """
    GradDiv: the more a random network's gradients spread, the less an attacker gains by averaging them.

    The unit gradients `g_i` of the loss with respect to the input are taken for `samples` draws of the network, and
    with `R = ||mean g_i||` the mean over the batch is penalised of

    - `kappa`: `R (d - R^2) / (1 - R^2)`, the von Mises-Fisher concentration, divided by `d` to keep its scale;
    - `mean`: the mean pairwise cosine, `(n R^2 - 1) / (n - 1)`: it differs from `kappa` in shape only;
    - `dpp`: `-log det(G G^T + delta I)`.

    Of the three only `kappa` is certain from the part of the paper available to us, its abstract. Isotropic gradients
    have `R` about `1/sqrt(n)`, not 0: progress is measured by :func:`gradient_cosine` at 32 draws. The gradients are
    differentiated again with respect to the weights: a step costs about `2 * samples` additional plain steps.
    Randomness in training mode only (dropout) spreads them too, but is absent at test time.

    | Paper link: https://arxiv.org/abs/2107.02425

    :param weight: Factor in the objective, at least 0.
    :param kind: `kappa`, `mean` or `dpp`.
    :param samples: Draws of the network, at least 2.
    :param delta: For `dpp`: what is added to the diagonal, above 0.
    :raises ValueError: If a setting is out of range.
    :raises TypeError: If a setting has the wrong type.

    Example:
    >>> from art_sensreg import GradientDiversityPenalty
    >>> from art_sensreg.randomization import randomize
    >>> model = randomize(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)), kind="rse")
    >>> value = GradientDiversityPenalty(samples=3)(model, torch.rand(5, 4), torch.zeros(5, dtype=torch.long))
    >>> value.item() > 0
    True
    """

    name: ClassVar[str] = "gradient_diversity"
    double_backward: ClassVar[bool] = True

    weight: float = 0.05
    kind: str = "kappa"
    samples: int = 4
    delta: float = 0.1

    def __post_init__(self) -> None:
        python_numbers(self)
        check_number("weight", self.weight, minimum=0.0)
        check_choice("kind", self.kind, KINDS)
        check_count("samples", self.samples, minimum=2)
        check_number("delta", self.delta, minimum=0.0, exclusive=True)

    @outside_inference_mode
    def __call__(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """
        Measure the penalty. The model keeps its mode; BatchNorm's running statistics do not change.

        :param model: Random module from `(n, ...)` inputs to `(n, C)` logits.
        :param x: Batch of inputs, `(n, ...)`, floating point.
        :param y: Class indices `(n,)`, or class probabilities `(n, C)`.
        :return: Unweighted value, a 0-d tensor, differentiable with respect to the model's parameters.
        """
        units = unit_gradients(draw_gradients(model, x, y, self.samples, create_graph=torch.is_grad_enabled()))
        if self.kind == "mean":
            return mean_pairwise_cosine(units).mean()
        if self.kind == "dpp":
            return negative_log_volume(units, self.delta).mean()
        d = units.shape[2]
        return (concentration(mean_resultant_length(units), d) / d).mean()
