"""Whether one of ART's torch preprocessors can be differentiated through, as part of the function that is trained."""

from __future__ import annotations

from typing import Any

import torch
from art.defences.preprocessor.preprocessor import PreprocessorPyTorch

from art_sensreg.utils.model_rng import preserve_rng_state


def differentiable(operation: PreprocessorPyTorch, x: torch.Tensor, width: Any, nb_classes: int) -> bool:
    """
    Whether a preprocessor can be part of the trained function.

    :param operation: The preprocessor.
    :param x: Some images from the middle of the input range.
    :param width: The width of that range, a tensor or a number.
    :param nb_classes: Number of classes.
    :return: Whether it makes one row of an image, leaves labels as they are, and autograd's derivatives are those that
        differences show (nothing is rounded or detached). One that draws at random is given the same draws.

    Example:
    >>> from art.preprocessing.standardisation_mean_std.pytorch import StandardisationMeanStdPyTorch
    >>> from art_sensreg.art_bridge.differentiable import differentiable
    >>> class Rounded(StandardisationMeanStdPyTorch):
    ...     def forward(self, x, y=None):
    ...         return torch.round(x), y
    >>> x = torch.rand(2, 3)
    >>> differentiable(StandardisationMeanStdPyTorch(0.5, 2.0), x, 1.0, 3), differentiable(Rounded(), x, 1.0, 3)
    (True, False)
    """
    generator = torch.Generator().manual_seed(1)
    try:
        for _ in range(8):
            along = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device) * width
            if not _derivative_agrees(operation, x, along, generator):
                return False
        labels = torch.eye(len(x), nb_classes, device=x.device)
        with torch.no_grad(), preserve_rng_state(x.device, 0):
            after = operation.forward(x.clone(), labels.clone())[1]
    except Exception:  # noqa: BLE001 - it may need anything, and then stands before
        return False
    return after is None or (isinstance(after, torch.Tensor) and torch.equal(after, labels))


def _derivative_agrees(
    operation: PreprocessorPyTorch, x: torch.Tensor, along: torch.Tensor, generator: torch.Generator
) -> bool:
    def output(images: torch.Tensor) -> torch.Tensor:
        with preserve_rng_state(x.device, 0):
            result: torch.Tensor = operation.forward(images)[0]
        return result

    leaf = x.clone().requires_grad_(True)
    with torch.enable_grad():
        value = output(leaf.clone())  # it may work in place
        if len(value) != len(x) or not value.requires_grad:
            return False
        weights = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(x.device)
        (gradient,) = torch.autograd.grad((value.double() * weights).sum(), leaf)
    step = 1e-3
    with torch.no_grad():
        ends = [output(x + sign * step * along).double() for sign in (1, -1)]
    measured = ((ends[0] - ends[1]) / (2 * step) * weights).sum()
    size = (gradient.double() * along.double()).pow(2).sum().sqrt()
    told = (gradient.double() * along.double()).sum()
    return bool(size > 0) and bool((measured - told).abs() <= 0.05 * size)
