"""Where the settings of each defence are searched: one space for each, in units of its own defaults."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from art_sensreg.benchmark.config.settings import RECIPES
from art_sensreg.benchmark.defences.spec import Options


@dataclass(frozen=True)
class Around:
    """Log-uniform around the default, from `default / factor` to `default * factor`: for weights."""

    factor: float

    def draw(self, rng: np.random.Generator, default: Any) -> float:
        """A value, to three digits."""
        return _rounded(default * math.exp(rng.uniform(-1, 1) * math.log(self.factor)))


@dataclass(frozen=True)
class Times:
    """Uniform from `low` to `high` times the default: for sizes in input units."""

    low: float
    high: float

    def draw(self, rng: np.random.Generator, default: Any) -> float:
        """A value, to three digits."""
        return _rounded(default * rng.uniform(self.low, self.high))


@dataclass(frozen=True)
class Among:
    """One of several values."""

    values: tuple[Any, ...]

    def draw(self, rng: np.random.Generator, default: Any) -> Any:
        """One of them."""
        return self.values[int(rng.integers(len(self.values)))]


@dataclass(frozen=True)
class Together:
    """One of several sets of options, which are drawn as a whole: a learning rate fits one optimizer only."""

    sets: tuple[Mapping[str, Any], ...]

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """One of them."""
        return dict(self.sets[int(rng.integers(len(self.sets)))])


Space = Mapping[str, Around | Times | Among | Together]

# Training beyond the size of the attack, and below it.
_EPS = {"eps": Times(0.9, 1.2)}
_CARRIED = {"eps_scale": Times(0.8, 1.1), "eps_step": Times(0.1, 2.0)}  # the scale's default is above 1
_CLEAN = {"clean_fraction": Among((0.0, 0.25, 0.5))}
_PENALTIES = {"sr_weight": Around(10.0), "jr_weight": Around(10.0)}
_SR_JR: Space = {"sigma": Around(2.0), **_PENALTIES}

# How weights are optimised: by Adam, or by SGD at a large rate with clipped gradients. It is drawn last, so that the
# draws of the other options do not depend on it.
_SGD = RECIPES["mnist"].optimization["carried"]
_OPTIMIZER = Together(({"optimizer": "adam"}, *({**_SGD, "learning_rate": rate} for rate in (0.1, 0.2, 0.4))))

_OWN: dict[str, Space] = {
    "sr": {"sigma": Around(2.0), "sr_weight": Around(10.0)},
    "jr": {"jr_weight": Around(10.0)},
    "sr+jr": _SR_JR,
    "sr+jr-cheap": _SR_JR,
    "carried": _CARRIED,
    "carried+sr+jr": {**_CARRIED, **_PENALTIES},
    "free+sr+jr": {**_CARRIED, **_PENALTIES},
    "fgsm-rs": {**_EPS, **_CLEAN},
    "n-fgsm": {**_EPS, **_CLEAN, "start_noise": Among((1.0, 2.0))},
    "gradalign": {**_EPS, "weight": Around(5.0)},
    "fgsm-pgi": {**_EPS, "weight": Around(5.0)},
    "nuat": {**_EPS, "weight": Around(5.0)},
    "free": {**_EPS, "replays": Among((2, 4, 8))},
    "ibp": {"eps_factor": Times(0.75, 1.1), "kappa": Among((0.0, 0.25, 0.5)), "reg_weight": Around(3.0)},
    "fgsm-rs+sr+jr": {**_EPS, **_CLEAN, **_PENALTIES},
    "n-fgsm+sr+jr": {**_EPS, **_CLEAN, **_PENALTIES},
    "at": {**_EPS, **_CLEAN},
    "trades": {**_EPS, "beta": Around(4.0)},
    "at-awp": {**_EPS, "awp_gamma": Around(4.0)},
    "trades-awp": {**_EPS, "beta": Around(4.0), "awp_gamma": Around(4.0)},
    "at+sr+jr": {**_EPS, **_CLEAN, **_PENALTIES},
    "trades+sr+jr": {**_EPS, "beta": Around(4.0), **_PENALTIES},
    "gradnorm": {"weight": Around(10.0)},
    "fire": {"weight": Around(5.0), **_EPS},
    "graddiv": {"weight": Around(5.0), "first_std": Around(2.0), "std": Around(2.0)},
    "rse": {"first_std": Around(2.0), "std": Around(2.0)},
    "adv-bnn": {"kl_weight": Around(5.0), "prior_std": Around(2.0)},
    "pni": {**_EPS, "initial_alpha": Around(2.0)},
    "art-fbf-fixed": {"learning_rate": Among((0.02, 0.05, 0.1, 0.15, 0.21, 0.3, 0.4, 0.6))},
}

SPACES: dict[str, Space] = {
    # FBF has an optimizer of its own, whose rate is searched.
    name: space if "learning_rate" in space else {**space, "optimizer": _OPTIMIZER}
    for name, space in _OWN.items()
}
"""The space of each defence; a name may be that of a defence which this version does not have."""


def draw_options(space: Space, defaults: Options, rng: np.random.Generator) -> Options:
    """
    Draw options from a space.

    :param space: The space.
    :param defaults: All options of the defence, with the data set's values filled in.
    :param rng: Where the draws come from.
    :return: The options that the space names, and those of the sets that it has.
    :raises ValueError: If an option has no default that a space of multiples could be around.

    Example:
    >>> from art_sensreg.benchmark.defences.search_spaces import Around, draw_options
    >>> draw_options({"weight": Around(2.0)}, {"weight": 4.0}, np.random.default_rng(0))
    {'weight': 4.84}
    """
    drawn: dict[str, Any] = {}
    for name, candidates in space.items():
        if isinstance(candidates, Together):
            drawn.update(candidates.draw(rng))
            continue
        default = defaults[name]
        if not isinstance(candidates, Among) and (default is None or default <= 0):
            raise ValueError(f"`{name}` has the default {default!r}; expected a number above 0 to search around.")
        drawn[name] = candidates.draw(rng, default)
    return drawn


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
