"""Random directions `xi` with independent entries of mean 0 and variance 1 (DESIGN: "probe")."""

from __future__ import annotations

import math

import torch

NOISES = ("gaussian", "uniform", "rademacher", "sphere")


def draw_noise(like: torch.Tensor, noise: str = "gaussian", generator: torch.Generator | None = None) -> torch.Tensor:
    """
    Draw one probe for every row of a batch.

    Every kind has mean 0 and variance 1 per entry; `sphere` is uniform on the sphere of norm `sqrt(d)`, so that its
    entries have variance 1 too, but are not independent.

    :param like: Batch of shape `(n, ...)` whose shape, dtype and device the noise takes.
    :param noise: One of `gaussian`, `uniform`, `rademacher` (signs), `sphere`.
    :param generator: Source of randomness on the device of `like`; torch's global one if `None`.
    :return: Tensor of the shape of `like`.
    :raises ValueError: If `noise` is unknown.

    Example:
    >>> from art_sensreg.penalties.noise import draw_noise
    >>> signs = draw_noise(torch.zeros(2, 1, 4, 4), "rademacher", torch.Generator().manual_seed(0))
    >>> sorted(signs.unique().tolist())
    [-1.0, 1.0]
    """
    if noise == "gaussian":
        return _gaussian(like, generator)
    if noise == "uniform":
        unit = torch.rand(like.shape, dtype=like.dtype, device=like.device, generator=generator)
        return unit.sub_(0.5).mul_(2 * math.sqrt(3))
    if noise == "rademacher":
        bits = torch.randint(0, 2, like.shape, dtype=torch.int8, device=like.device, generator=generator)
        return bits.to(like.dtype).mul_(2).sub_(1)
    if noise == "sphere":
        return _unit_sphere(like, generator) * math.sqrt(like[0].numel())
    raise ValueError(f"`noise` is {noise!r}; expected one of {', '.join(NOISES)}.")


def draw_unit_sphere(n: int, dim: int, like: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """
    Draw `n` vectors uniform on the unit sphere of `R^dim` (norm 1), as the projection estimator needs them.

    :param n: Number of vectors.
    :param dim: Dimension of each.
    :param like: Tensor whose dtype and device the result takes.
    :param generator: Source of randomness; torch's global one if `None`.
    :return: Tensor of shape `(n, dim)`.

    Example:
    >>> from art_sensreg.penalties.noise import draw_unit_sphere
    >>> draw_unit_sphere(3, 5, torch.zeros(1)).norm(dim=1).round(decimals=4).tolist()
    [1.0, 1.0, 1.0]
    """
    return _unit_sphere(like.new_empty(n, dim), generator)


def _gaussian(like: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)


def _unit_sphere(like: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    rows = _gaussian(like, generator).flatten(1)
    return torch.nn.functional.normalize(rows, dim=1).reshape(like.shape)
