"""Adversarial weight perturbation: the gradient of a step is taken where the loss is worst near the weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch


@contextmanager
def perturbed_weights(parameters: Sequence[torch.Tensor], gamma: float) -> Iterator[None]:
    """
    Inside, each weight `w` with a gradient `g` is `w + gamma ||w|| g / ||g||`; afterwards what it was, bit for bit.

    As in the authors' code, parameters of one dimension (biases, those of normalisation) stay where they are.

    | Paper link: https://arxiv.org/abs/2004.05884 (Wu, Xia, Wang 2020, equations 8 to 10, one step)
    """
    moved = [p for p in parameters if p.ndim > 1 and p.grad is not None]
    before = [p.detach().clone() for p in moved]
    with torch.no_grad():
        for weight, value in zip(moved, before, strict=True):
            assert weight.grad is not None
            size = weight.grad.norm().clamp_min(torch.finfo(weight.dtype).tiny)
            weight.add_(weight.grad * (gamma * value.norm() / size))
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, value in zip(moved, before, strict=True):
                weight.copy_(value)
