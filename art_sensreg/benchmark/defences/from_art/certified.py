"""ART's certified defences as rows of the suite: interval bounds, zonotopes and randomised smoothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from art.estimators.classification import PyTorchClassifier

from art_sensreg.benchmark.defences.claims import Claim
from art_sensreg.benchmark.defences.from_art.interval_bounds import (
    DEEPZ_OPTIONS,
    IBP_FIXED_OPTIONS,
    IBP_OPTIONS,
    certify_deepz,
    certify_ibp,
    train_deepz,
    train_deepz_fixed,
    train_ibp,
    train_ibp_fixed,
)
from art_sensreg.benchmark.defences.from_art.smoothing import (
    CERTIFICATE_OPTIONS,
    MACER_OPTIONS,
    SMOOTHADV_FIXED_OPTIONS,
    SMOOTHADV_OPTIONS,
    SMOOTHING_OPTIONS,
    SMOOTHMIX_FIXED_OPTIONS,
    SMOOTHMIX_OPTIONS,
    certify_smoothing,
    smoothed_module,
    train_macer,
    train_smoothadv,
    train_smoothadv_fixed,
    train_smoothing,
    train_smoothmix,
    train_smoothmix_fixed,
)
from art_sensreg.benchmark.defences.spec import Certificate, Defence, Options, RandomRow
from art_sensreg.benchmark.defences.train_spec import TrainingSpec

_CERTIFIED = Claim(metric="certified_accuracy", threat="any evasion within eps in L-inf, provably")

_IBP_PAPER = "Gowal et al. 2018, arXiv 1810.12715"
_DEEPZ_PAPER = "Singh et al. 2018, NeurIPS; Mirman et al. 2018, ICML"
_SMOOTHADV_PAPER = "Salman et al. 2019, arXiv 1906.04584"
_SMOOTHMIX_PAPER = "Jeong et al. 2021, arXiv 2111.09277"

BOUNDED_ROWS = (
    Defence(
        "art-ibp",
        "ART AdversarialTrainerCertifiedIBP as shipped: interval bounds, ART's schedule",
        _IBP_PAPER,
        train_ibp,
        IBP_OPTIONS,
        replace(_CERTIFIED, unmet="with ART's schedule it predicts a constant"),
        ours=False,
        certificate=Certificate(norm="linf", certify=certify_ibp),
    ),
    Defence(
        "art-ibp-fixed",
        "ART AdversarialTrainerCertifiedIBP, repaired",
        _IBP_PAPER,
        train_ibp_fixed,
        IBP_FIXED_OPTIONS,
        _CERTIFIED,
        repaired="a warm-up and enough steps, without which it predicts a constant; convolutions are not unrolled",
        certificate=Certificate(norm="linf", certify=certify_ibp),
    ),
    Defence(
        "art-deepz",
        "ART AdversarialTrainerCertified as shipped: DeepZ zonotopes",
        _DEEPZ_PAPER,
        train_deepz,
        DEEPZ_OPTIONS,
        _CERTIFIED,
        ours=False,
        certificate=Certificate(norm="linf", certify=certify_deepz),
    ),
    Defence(
        "art-deepz-fixed",
        "ART AdversarialTrainerCertified, repaired",
        _DEEPZ_PAPER,
        train_deepz_fixed,
        DEEPZ_OPTIONS,
        _CERTIFIED,
        repaired="zonotopes of images near black or white no longer crash under numpy 2",
        certificate=Certificate(norm="linf", certify=certify_deepz),
    ),
)


def _smoothed(
    name: str,
    summary: str,
    paper: str,
    train: Callable[[TrainingSpec, Options], PyTorchClassifier],
    options: Options,
    repaired: str = "",
) -> Defence:
    """A base model trained for randomised smoothing: attacked and scored under its noise, certified in L2."""
    return Defence(
        name,
        summary,
        paper,
        train,
        {**CERTIFICATE_OPTIONS, **options},
        Claim(metric="certified_accuracy", threat="any evasion within eps in L2, with high probability"),
        ours=False,
        repaired=repaired,
        random=RandomRow(module=lambda model, chosen: smoothed_module(model, chosen["sigma"])),
        # With a thousand samples no radius is above 2.5 sigma, whatever the model.
        certificate=Certificate(
            norm="l2", certify=certify_smoothing, sizes=lambda chosen: (chosen["sigma"], 2 * chosen["sigma"])
        ),
    )


SMOOTHED_ROWS = (
    _smoothed(
        "art-smoothing",
        "ART RandomizedSmoothing: trained on Gaussian noise, answers by the mean over noise",
        "Cohen et al. 2019, arXiv 1902.02918",
        train_smoothing,
        SMOOTHING_OPTIONS,
    ),
    _smoothed(
        "art-macer",
        "ART MACER: smoothing trained for a large certified radius",
        "Zhai et al. 2020, arXiv 2001.02378",
        train_macer,
        MACER_OPTIONS,
    ),
    _smoothed(
        "art-smoothadv",
        "ART SmoothAdv as shipped: an L-inf attack on predicted labels",
        _SMOOTHADV_PAPER,
        train_smoothadv,
        SMOOTHADV_OPTIONS,
    ),
    _smoothed(
        "art-smoothadv-fixed",
        "ART SmoothAdv, repaired",
        _SMOOTHADV_PAPER,
        train_smoothadv_fixed,
        SMOOTHADV_FIXED_OPTIONS,
        repaired="the L2 attack of the paper, on the true labels, over several noise vectors",
    ),
    _smoothed(
        "art-smoothmix",
        "ART SmoothMix as shipped: an attack that does not move",
        _SMOOTHMIX_PAPER,
        train_smoothmix,
        SMOOTHMIX_OPTIONS,
    ),
    _smoothed(
        "art-smoothmix-fixed",
        "ART SmoothMix, repaired",
        _SMOOTHMIX_PAPER,
        train_smoothmix_fixed,
        SMOOTHMIX_FIXED_OPTIONS,
        repaired="the attack has a step size (ART passes it the failure probability)",
    ),
)
