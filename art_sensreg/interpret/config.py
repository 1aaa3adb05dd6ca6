"""Settings shared by saliency maps and their metrics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from art_sensreg.utils import check_count, check_number, check_seed, python_numbers


@dataclass(frozen=True, kw_only=True, eq=False)
class ExplanationConfig:
    """
    Settings of saliency maps and metrics; each function uses those that it needs.

    :param baseline: What a missing pixel is replaced by, and where integrals start, in input units: a number, or an
        array that broadcasts against the images, such as :func:`blurred` ones.
    :param steps: Gradients of an integral; steps of insertion and deletion from no pixel to all of them, at most one
        for each pixel.
    :param sigma: Standard deviation of infidelity's noise, in input units; noisy images are not clipped.
    :param radius: Half the edge of the cube in which max-sensitivity looks, in input units; images are not clipped.
    :param samples: Draws of noise for each image, for infidelity and max-sensitivity.
    :param batch_size: Images of a forward pass, but no fewer than `samples`. Results do not depend on it unless the
        model is random.
    :param seed: Seed of the noise, and of the draws of a random model.
    :raises TypeError: If a setting has the wrong type.
    :raises ValueError: If a setting is out of range.
    """

    baseline: float | np.ndarray = 0.0
    steps: int = 32
    sigma: float = 0.1
    radius: float = 0.02
    samples: int = 10
    batch_size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "samples", "batch_size"):
            check_count(name, getattr(self, name))
        for name in ("sigma", "radius"):
            check_number(name, getattr(self, name), minimum=0.0, exclusive=True)
        check_seed("seed", self.seed)
        python_numbers(self)


DEFAULT = ExplanationConfig()
