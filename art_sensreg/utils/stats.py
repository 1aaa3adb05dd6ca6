"""95 % confidence intervals."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from scipy.stats import binomtest  # type: ignore[import-untyped]

_QUANTILE = NormalDist().inv_cdf(0.975)


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """
    Wilson's interval of a share: its lower and upper end for a number of successes among `n` trials.

    | Paper link: https://doi.org/10.1080/01621459.1927.10502953 (Wilson 1927)
    """
    interval = binomtest(successes, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def share_half_width(*samples: tuple[float, int]) -> float:
    """Half the normal interval of a share, or of the difference of two; each is given with its number of trials."""
    return _QUANTILE * math.sqrt(sum(share * (1 - share) / n for share, n in samples))


def mean_half_width(values: np.ndarray) -> float:
    """Half the normal interval of the mean of at least two independent values."""
    return _QUANTILE * float(values.std(ddof=1)) / math.sqrt(len(values))
