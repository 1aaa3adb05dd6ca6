"""What each defence claims to stop, the metric for it, and whether a run shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from art_sensreg.utils.stats import share_half_width

METRICS = ("robust_accuracy", "certified_accuracy", "attack_queries", "none")
# Fewest queries for each of the undefended model's that count as more: Square's own spread between runs is far smaller.
_MORE_QUERIES = 1.5


@dataclass(frozen=True, kw_only=True)
class Claim:
    """
    What a defence claims.

    :param metric: `robust_accuracy`: at some attack size more images survive than without the defence, by more than
        the sampling error; `certified_accuracy`: more images are certified than a constant prediction would have;
        `attack_queries`: a score-based attack needs more queries, or wins less with as many; `none`: nothing about
        evasion.
    :param threat: Whom it claims to stop, in words.
    :param over: The defence that it claims to be better than, `none` being none at all.
    :param unmet: Why it is expected not to be met on the digits, in words; empty if it is.
    """

    metric: str
    threat: str
    over: str = "none"
    unmet: str = ""

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f"`metric` is {self.metric!r}; expected one of {', '.join(METRICS)}.")


def robust_accuracy(threat: str = "white-box evasion within eps", unmet: str = "") -> Claim:
    """
    The claim of most defences: robust accuracy above the undefended model's.

    :param threat: Whom it claims to stop.
    :param unmet: As for :class:`Claim`.
    :return: The claim.

    Example:
    >>> from art_sensreg.benchmark.defences.claims import robust_accuracy
    >>> robust_accuracy().metric
    'robust_accuracy'
    """
    return Claim(metric="robust_accuracy", threat=threat, unmet=unmet)


def judged(claim: Claim, run: dict[str, Any], twin: dict[str, Any] | None, chance: float) -> dict[str, Any]:
    """
    Judge a claim by a run.

    :param claim: The claim.
    :param run: The record of the defence.
    :param twin: The record of the same seed that it is compared with, its cases on the same images; or None.
    :param chance: Share of the most frequent class: what a constant prediction gets right, attacked or not.
    :return: `metric`, `threat`, `status` (`met`, `not met`, `none made`, `not measured`) and `text`: the figures.

    Example:
    >>> from art_sensreg.benchmark.defences.claims import judged, robust_accuracy
    >>> worst = [{"norm": "linf", "eps": 0.1, "robust_accuracy": share, "n": 200} for share in (0.8, 0.5)]
    >>> twin = {"defence": "none", "worst_case": worst[1:]}
    >>> judged(robust_accuracy(), {"worst_case": worst[:1]}, twin, 0.1)["status"]
    'met'
    """
    judge = {
        "robust_accuracy": _judge_robust,
        "certified_accuracy": _judge_certified,
        "attack_queries": _judge_queries,
    }.get(claim.metric)
    status, text = ("none made", "nothing about evasion") if judge is None else judge(run, twin, chance)
    return {"metric": claim.metric, "threat": claim.threat, "status": status, "text": text}


def _judge_robust(run: dict[str, Any], twin: dict[str, Any] | None, chance: float) -> tuple[str, str]:
    if twin is None:
        return "not measured", "the model that it is compared with is not in this run"
    failed = sorted({row["attack"] for row in run.get("attacks", []) if row.get("status") == "error"})
    if failed:
        return "not measured", f"failed attacks: {', '.join(failed)}"
    others = {(case["norm"], case["eps"]): case for case in twin["worst_case"]}
    pairs = [(case, others[case["norm"], case["eps"]]) for case in run["worst_case"] if _key(case) in others]
    if not pairs:
        return "not measured", "no attack in common with the model that it is compared with"
    met = any(_clearly_above(case, other) for case, other in pairs)
    # A model that predicts one class whatever comes is robust, and of no use.
    n = max(case["n"] for case, _ in pairs)
    clean = {"robust_accuracy": run.get("clean_accuracy", 1.0), "n": n}
    if met and not _clearly_above(clean, {"robust_accuracy": chance, "n": n}):
        return "not met", f"no better unattacked than a constant prediction ({100 * chance:.1f} %)"
    text = "; ".join(
        f"{100 * case['robust_accuracy']:.1f} % at {case['norm']} {case['eps']:.4g}, {twin['defence']} "
        f"{100 * other['robust_accuracy']:.1f} %"
        for case, other in pairs
    )
    return "met" if met else "not met", text


def _key(case: dict[str, Any]) -> tuple[str, float]:
    return case["norm"], case["eps"]


def _clearly_above(case: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether one share is above another by more than the sampling error of both (95 %)."""
    first, second = case["robust_accuracy"], other["robust_accuracy"]
    error = share_half_width((first, case["n"]), (second, other["n"]))
    # Of a share of 0 or 1 the estimate of the variance is 0; one image more or less is the least that counts.
    return bool(first - second > error + 1 / case["n"])


def _judge_certified(run: dict[str, Any], twin: dict[str, Any] | None, chance: float) -> tuple[str, str]:
    certified = run.get("certified", [])
    if not certified:
        return "not measured", "nothing was certified"
    text = "; ".join(
        f"{100 * case['accuracy']:.1f} % certified at {case['norm']} {case['eps']:.4g}" for case in certified
    )
    return "met" if any(case["ci_low"] > chance for case in certified) else "not met", text


def _judge_queries(run: dict[str, Any], twin: dict[str, Any] | None, chance: float) -> tuple[str, str]:
    queries = run.get("queries")
    if not queries:
        return "not measured", "no queries were counted"
    ratio = queries["mean"] / max(queries["undefended_mean"], 1.0)
    left, undefended = (
        {"robust_accuracy": queries[f"{prefix}robust_accuracy"], "n": queries["n"]} for prefix in ("", "undefended_")
    )
    text = (
        f"{queries['attack']} at {queries['norm']} {queries['eps']:.4g}: {queries['mean']:.0f} queries an image, "
        f"{100 * left['robust_accuracy']:.1f} % left; undefended {queries['undefended_mean']:.0f}, "
        f"{100 * undefended['robust_accuracy']:.1f} %"
    )
    return "met" if ratio >= _MORE_QUERIES or _clearly_above(left, undefended) else "not met", text
