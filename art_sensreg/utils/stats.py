"""Confidence intervals, at 95 %."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from scipy.stats import binomtest  # type: ignore[import-untyped]

_Z95 = NormalDist().inv_cdf(0.975)  # two-sided 95 % quantile


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """
    Wilson's interval of a share.

    | Paper link: https://doi.org/10.1080/01621459.1927.10502953 (Wilson 1927)

    :param successes: Number of successes.
    :param n: Number of trials, at least 1.
    :return: Lower and upper end.

    Example:
    >>> from art_sensreg.utils.stats import wilson_interval
    >>> [round(end, 4) for end in wilson_interval(8, 10)]
    [0.4902, 0.9433]
    """
    interval = binomtest(successes, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def share_half_width(*samples: tuple[float, int]) -> float:
    """
    Half the width of the normal interval of a share, or of the difference of two independent ones.

    :param samples: Each share, and the number of trials that it was measured on.
    """
    return _Z95 * math.sqrt(sum(share * (1 - share) / n for share, n in samples))


def mean_half_width(values: np.ndarray) -> float:
    """
    Half the width of the normal interval of a mean.

    :param values: At least two independent values.
    """
    return _Z95 * float(values.std(ddof=1)) / math.sqrt(len(values))
