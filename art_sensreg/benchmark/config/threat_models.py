"""Threat models: norms and sizes, the size of a perturbation, and random noise of a given size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from art_sensreg.attacks.base.norms import Ball, norm_name

# Our names, and the norms as ART expects them.
NORMS: dict[str, float] = {"linf": np.inf, "l2": 2, "l1": 1}
NOISE_DRAWS = 10


@dataclass(frozen=True)
class Threat:
    """
    A norm and the sizes of the attacks in it.

    :param norm: `linf`, `l2` or `l1`.
    :param eps: Attack sizes, ascending.
    """

    norm: str
    eps: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", norm_name(self.norm))


Threats = tuple[Threat, ...]


def threats_to_dict(threats: Threats) -> dict[str, Any]:
    """
    Norms and sizes as stored in `results.json`: for one norm its name and a list, for several a list and a dict.

    :param threats: The threats.
    :return: The entries `norm` and `eps`.

    Example:
    >>> from art_sensreg.benchmark.config.threat_models import threats_to_dict
    >>> threats_to_dict((Threat("linf", (0.1, 0.2)),))
    {'norm': 'linf', 'eps': [0.1, 0.2]}
    >>> threats_to_dict((Threat("linf", (0.1,)), Threat("l2", (0.5,))))
    {'norm': ['linf', 'l2'], 'eps': {'linf': [0.1], 'l2': [0.5]}}
    """
    if len(threats) == 1:
        return {"norm": threats[0].norm, "eps": list(threats[0].eps)}
    return {
        "norm": [threat.norm for threat in threats],
        "eps": {threat.norm: list(threat.eps) for threat in threats},
    }


def threats_of(config: dict[str, Any]) -> Threats:
    """Read norms and sizes from `results.json`."""
    norm, eps = config["norm"], config["eps"]
    if isinstance(norm, str):
        return (Threat(norm, tuple(eps)),)
    return tuple(Threat(name, tuple(eps[name])) for name in norm)


def pair_threats(
    norms: Sequence[str],
    groups: Sequence[tuple[float, ...]] | None,
    defaults: dict[str, tuple[float, ...]],
) -> Threats:
    """
    Give each norm its sizes.

    :param norms: Names of the norms.
    :param groups: Sizes of each norm in this order; None: the defaults.
    :param defaults: Sizes of each norm from the data set's recipe.
    :return: The threats.
    :raises ValueError: Unless there are as many groups as norms.

    Example:
    >>> from art_sensreg.benchmark.config.threat_models import pair_threats
    >>> pair_threats(["linf", "l2"], [(0.1,), (0.5,)], {})
    (Threat(norm='linf', eps=(0.1,)), Threat(norm='l2', eps=(0.5,)))
    """
    if groups is None:
        return tuple(Threat(norm, defaults[norm]) for norm in norms)
    if len(groups) != len(norms):
        raise ValueError(
            f"`--eps` has {len(groups)} groups of sizes; expected {len(norms)}, one for each of the norms "
            f"{', '.join(norms)}, separated by /"
        )
    return tuple(Threat(norm, group) for norm, group in zip(norms, groups, strict=True))


def perturbation_size(x: np.ndarray, x_adv: np.ndarray, norm: str) -> np.ndarray:
    """Size of the perturbation of each image; infinite if it is not finite, so that it exceeds every eps."""
    norm = norm_name(norm)
    difference = (np.asarray(x_adv, dtype=np.float64) - x).reshape(len(x), int(np.prod(x.shape[1:])))
    if norm == "linf":
        size = np.abs(difference).max(axis=1)
    else:
        size = np.sqrt((difference**2).sum(axis=1)) if norm == "l2" else np.abs(difference).sum(axis=1)
    return np.where(np.isfinite(size), size, np.inf)


def allowed(x: np.ndarray, x_adv: np.ndarray, norm: str, eps: float) -> np.ndarray:
    """
    Which perturbed images are valid: within eps, up to rounding, and in the image range.

    Example:
    >>> from art_sensreg.benchmark.config.threat_models import allowed
    >>> allowed(np.zeros((3, 1)), np.array([[0.1], [0.2], [-0.1]]), "linf", 0.1)
    array([ True, False, False])
    """
    pixels = x_adv.reshape(len(x_adv), int(np.prod(x_adv.shape[1:])))
    in_range = ((pixels >= 0) & (pixels <= 1)).all(axis=1)
    return in_range & (perturbation_size(x, x_adv, norm) <= eps * (1 + 1e-5) + 1e-6)


def random_noise(x: np.ndarray, norm: str, eps: float, seed: int) -> np.ndarray:
    """
    Images with random noise of a given size: uniform in the L-inf ball, on the sphere in L2 and L1; clipped to [0, 1].

    Example:
    >>> from art_sensreg.benchmark.config.threat_models import random_noise
    >>> noisy = random_noise(np.full((1, 1000), 0.5, dtype=np.float32), "l2", 0.1, seed=0)
    >>> round(float(np.linalg.norm(noisy - 0.5)), 4)
    0.1
    """
    ball, images = Ball(norm, eps, 0.0, 1.0), torch.from_numpy(x)
    generator = torch.Generator().manual_seed(seed)
    noisy = ball.inside(images, generator) if ball.norm == "linf" else ball.border(images, generator)
    array: np.ndarray = noisy.numpy()
    return array
