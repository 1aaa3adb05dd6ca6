"""The variants of the ablation: one option of SR, or of the carried adversary, changed at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Variant:
    """
    A variant.

    :param name: Its name in tables and files.
    :param defence: The defence of the suite.
    :param of: Name of the variant that it is compared with.
    :param options: Options of the defence.
    :param settings: Settings of the suite.
    """

    name: str
    defence: str
    of: str
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


_SR: dict[str, Mapping[str, Any]] = {
    "noise-uniform": {"noise": "uniform"},
    "noise-rademacher": {"noise": "rademacher"},
    "noise-sphere": {"noise": "sphere"},
    "sigma-range": {"sigma": (0.1, 0.4)},
    "probes-2": {"probes": 2},
    "clip": {"clip": True},
    "layers-pre-activation": {"layers": "pre_activation"},
    "layers-with-logits": {"layers": "hidden+logits"},
    "distance-absolute": {"distance": "absolute"},
    "scale-relative": {"scale": "relative"},
    "detach-clean": {"detach_clean": True},
    "top-layers-2": {"top_layers": 2},
    "jr-nuclear": {"jr_norm": "nuclear"},
    "jr-unsquared": {"jr_squared": False},
    "no-sr": {"sr_weight": 0.0},
    "no-jr": {"jr_weight": 0.0},
}
_CARRIED: dict[str, Mapping[str, Any]] = {
    "no-sr": {"sr_weight": 0.0},
    "no-jr": {"jr_weight": 0.0},
    "pair-adversarial": {"pair": "adversarial"},
    "pair-noisy": {"pair": "noisy"},
    "eps-step-full": {"eps_step": 0.3},
    "eps-step-quarter": {"eps_step": 0.075},
    "eps-step-eighth": {"eps_step": 0.0375},
    "free": {"free": True},
    "eps-1": {"eps_scale": 1.0},
    "whole-batch": {"penalty_fraction": 1.0},
    "penalty-warmup": {"penalty_warmup": 0.5},
    "eps-warmup": {"eps_warmup": 0.3},
    "clean-half": {"clean_fraction": 0.5},
}
# Those of SR and JR with normal noise for all images of a batch; those of the carried adversary with Adam, larger steps
# and the full size from the start: as before the suite's defaults on MNIST were others. All variants stay comparable.
_PLAIN: Mapping[str, Any] = {"noise": "gaussian", "penalty_fraction": 1.0}
_ALONE: Mapping[str, Any] = {"optimizer": "adam", "step_share": 0.5, "eps_warmup": 0.0}
_FORMER: Mapping[str, Any] = {**_ALONE, "penalty_warmup": 0.0}
# What any training may have; averaging and smoothing are settings of how weights are optimised.
_GENERAL: dict[str, Mapping[str, Any]] = {
    "averaging": {"weight_average": 0.999},
    "label-smoothing": {"label_smoothing": 0.1},
}
_ACTIVATIONS = ("gelu", "silu", "softplus")


def variants() -> tuple[Variant, ...]:
    """All variants, each after the default that it is compared with."""
    found = []
    for defence, changes, general in (("sr+jr", _SR, _PLAIN), ("carried+sr+jr", _CARRIED, _FORMER)):
        found.append(Variant(name=defence, defence=defence, of=defence, options=general))
        for label, options in {**changes, **_GENERAL}.items():
            name, options = f"{defence}_{label}", {**general, **options}
            found.append(Variant(name=name, defence=defence, of=defence, options=options))
        for activation in _ACTIVATIONS:
            name, settings = f"{defence}_{activation}", {"activation": activation}
            found.append(Variant(name=name, defence=defence, of=defence, options=general, settings=settings))
    alone: dict[str, Mapping[str, Any]] = {
        "": {}, "_eps-step-eighth": {"eps_step": 0.0375}, "_eps-warmup": {"eps_warmup": 0.3},
    }  # fmt: skip
    for label, options in alone.items():
        chosen = {**_ALONE, **options}
        found.append(Variant(name=f"carried{label}", defence="carried", of="carried+sr+jr", options=chosen))
    # A step of it costs 2.3 plain ones and one with the penalties 2.9: the time of their 6 epochs buys 8.
    equal_cost = {"epochs": 8}
    found.append(
        Variant(name="carried_equal-cost", defence="carried", of="carried+sr+jr", options=_ALONE, settings=equal_cost)
    )
    return tuple(found)
