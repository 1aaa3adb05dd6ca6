"""Defences of other authors that train with this package's loop, adversaries and penalties."""

from __future__ import annotations

from art_sensreg.adversaries import FGSMRS, PGD, TRADES
from art_sensreg.benchmark.defences.factories import from_penalties
from art_sensreg.benchmark.defences.spec import Options
from art_sensreg.penalty_lists import Penalty

_LINF = ("linf",)
_STEEPEST = ("linf", "l2")
_SIZES: Options = {"eps": None, "eps_step": None}
_PGD: Options = {**_SIZES, "max_iter": 7, "norm": None, "clean_fraction": 0.0}
_TRADES: Options = {**_SIZES, "max_iter": 10, "norm": None, "beta": 6.0}


def _no_penalties(options: Options) -> list[Penalty]:
    return []


def _some(options: Options, names: Options) -> Options:
    return {name: options[name] for name in names}


RIVALS = (
    from_penalties(
        "at",
        "Adversarial training by PGD on the whole batch",
        "Madry et al. 2018, arXiv 1706.06083",
        _no_penalties,
        _PGD,
        adversary=lambda options: PGD(**_some(options, _PGD)),
        norms=_STEEPEST,
    ),
    from_penalties(
        "trades",
        "TRADES: clean loss plus the divergence of adversarial from clean predictions",
        "Zhang et al. 2019, arXiv 1901.08573",
        _no_penalties,
        _TRADES,
        adversary=lambda options: TRADES(**_some(options, _TRADES)),
        norms=_STEEPEST,
    ),
    from_penalties(
        "fgsm-rs",
        "FGSM from a random start on the whole batch",
        "Wong et al. 2020, arXiv 2001.03994",
        _no_penalties,
        {**_SIZES, "clean_fraction": 0.0},
        adversary=lambda options: FGSMRS(**_some(options, {**_SIZES, "clean_fraction": 0.0})),
        norms=_LINF,
    ),
)
