"""How each attack of the suite is made: functions of classifier, norm, eps and settings that return an ART attack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from art.attacks.evasion import (
    AutoAttack,
    AutoProjectedGradientDescent,
    CarliniL2Method,
    DeepFool,
    FastGradientMethod,
    HopSkipJump,
    ProjectedGradientDescent,
    SquareAttack,
)
from art.estimators.classification import PyTorchClassifier

from art_sensreg.attacks import OfficialAutoAttack
from art_sensreg.benchmark.attacks.spec import Builder, Settings

_BATCH = 128


def fgm(classifier: PyTorchClassifier, norm: float, eps: float, settings: Settings) -> Any:
    """ART's FastGradientMethod."""
    return FastGradientMethod(classifier, norm=norm, eps=eps, batch_size=_BATCH)


def pgd(classifier: PyTorchClassifier, norm: float, eps: float, settings: Settings) -> Any:
    """ART's ProjectedGradientDescent."""
    steps, restarts = settings["max_iter"], settings["restarts"]
    # Step size 2.5 eps / steps: Madry et al. 2018, section 5.1's rule for reaching the border from any start.
    return ProjectedGradientDescent(
        classifier,
        norm=norm,
        eps=eps,
        eps_step=2.5 * eps / steps,
        max_iter=steps,
        num_random_init=restarts,
        batch_size=_BATCH,
        verbose=False,
    )


def apgd(loss_type: str) -> Builder:
    """ART's AutoProjectedGradientDescent on `cross_entropy` or `difference_logits_ratio`."""

    def build(classifier: PyTorchClassifier, norm: float, eps: float, settings: Settings) -> Any:
        return AutoProjectedGradientDescent(
            classifier,
            norm=norm,
            eps=eps,
            eps_step=2 * eps,  # the authors' first step; ART's default is 0.1 whatever eps is
            max_iter=settings["max_iter"],
            nb_random_init=settings["restarts"],
            batch_size=_BATCH,
            loss_type=loss_type,
            verbose=False,
        )

    return build


def square(classifier: PyTorchClassifier, norm: float, eps: float, settings: Settings) -> Any:
    """ART's SquareAttack."""
    return SquareAttack(
        classifier, norm=norm, eps=eps, max_iter=settings["max_iter"], nb_restarts=1, batch_size=_BATCH, verbose=False
    )


def deepfool(classifier: PyTorchClassifier, norm: float, eps: float, settings: Settings) -> Any:
    """ART's DeepFool."""
    return DeepFool(classifier, max_iter=settings["max_iter"], epsilon=1e-3, batch_size=_BATCH, verbose=False)


def carlini(classifier: PyTorchClassifier, norm: float, eps: float, settings: Settings) -> Any:
    """ART's CarliniL2Method."""
    return CarliniL2Method(
        classifier,
        max_iter=settings["max_iter"],
        binary_search_steps=settings["binary_search_steps"],
        initial_const=1.0,  # with ART's 0.01, runs of few steps need ten doublings before they fool anything
        learning_rate=0.05,
        batch_size=_BATCH,
        verbose=False,
    )


def hop_skip_jump(classifier: PyTorchClassifier, norm: float, eps: float, settings: Settings) -> Any:
    """ART's HopSkipJump."""
    return HopSkipJump(
        classifier, norm=norm, max_iter=settings["max_iter"], max_eval=settings["max_eval"], init_eval=10, verbose=False
    )


def art_auto_attack(classifier: PyTorchClassifier, norm: float, eps: float, settings: Settings) -> Any:
    """ART's AutoAttack, without the logits ratio for two classes and without Square in L1, where they are undefined."""
    losses = ["cross_entropy", *(["difference_logits_ratio"] if classifier.nb_classes > 2 else [])]
    parts = [
        *(apgd(loss)(classifier, norm, eps, settings) for loss in losses),
        deepfool(classifier, norm, eps, {"max_iter": 50}),
        *([square(classifier, norm, eps, {"max_iter": settings["queries"]})] if norm != 1 else []),
    ]
    return AutoAttack(classifier, norm=norm, eps=eps, eps_step=2 * eps, attacks=parts, batch_size=_BATCH)


def official(version: str = "standard", attacks: tuple[str, ...] | None = None) -> Builder:
    """The authors' AutoAttack in its version `standard`, `plus` or `rand`, or single stages of it."""

    def build(classifier: PyTorchClassifier, norm: float, eps: float, settings: Settings) -> Any:
        chosen = _taken(settings, "nb_iter", "nb_queries", "nb_restarts", "eot_iter", "seed")
        return OfficialAutoAttack(classifier, norm=norm, eps=eps, version=version, attacks=attacks, **chosen)

    return build


def ours(kind: Callable[..., Any], *uses: str, **fixed: Any) -> Builder:
    """One of `art_sensreg.attacks` with fixed arguments; `uses` names the data it takes: `guides`, `surrogates`."""

    def build(classifier: PyTorchClassifier, norm: float, eps: float, settings: Settings) -> Any:
        chosen = _taken(settings, "max_iter", "nb_restarts", "seed", *uses)
        return kind(classifier, norm=norm, eps=eps, **fixed, **chosen)

    return build


def _taken(settings: Settings, *names: str) -> Settings:
    return {name: settings[name] for name in names if name in settings}
