"""What each defence claims to stop, and the metric for the claim."""

from __future__ import annotations

from dataclasses import dataclass

from art_sensreg.utils import check_choice

METRICS = ("robust_accuracy", "certified_accuracy", "attack_queries", "none")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """
    What a defence claims.

    :param metric: `robust_accuracy`: at some attack size more images survive than without the defence, by more than
        the sampling error; `certified_accuracy`: more images are certified than a constant prediction gets right;
        `attack_queries`: a score-based attack needs more queries, or succeeds less often with as many; `none`: nothing
        about evasion.
    :param threat: The attacker that it claims to stop, in words.
    :param over: The defence that it claims to be better than; `none` is the undefended model.
    :param unmet: Why the claim is not expected to be met on the digits, in words; empty if it is.
    """

    metric: str
    threat: str
    over: str = "none"
    unmet: str = ""

    def __post_init__(self) -> None:
        check_choice("metric", self.metric, METRICS)


def robust_accuracy(threat: str = "white-box evasion within eps", unmet: str = "") -> Claim:
    """
    The claim of most defences: robust accuracy above the undefended model's.

    :param threat: The attacker that it claims to stop.
    :param unmet: As for :class:`Claim`.
    :return: The claim.

    Example:
    >>> from art_sensreg.benchmark.defences.claims import robust_accuracy
    >>> robust_accuracy().metric
    'robust_accuracy'
    """
    return Claim(metric="robust_accuracy", threat=threat, unmet=unmet)
