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


def clearly_above(first: tuple[float, int], second: tuple[float, int]) -> bool:
    """
    Whether one share is above another by more than the sampling error of both (95 %); each is given with its number of
    trials.

    Example:
    >>> from art_sensreg.utils.stats import clearly_above
    >>> clearly_above((0.7, 200), (0.5, 200)), clearly_above((0.55, 200), (0.5, 200))
    (True, False)
    """
    # Of a share of 0 or 1 the estimate of the variance is 0; one trial more or less is the least that counts.
    return bool(first[0] - second[0] > share_half_width(first, second) + 1 / first[1])
