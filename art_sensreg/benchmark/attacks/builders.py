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

Settings = dict[str, Any]
Builder = Callable[[PyTorchClassifier, float, float, Settings], Any]

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
    """
    ART's AutoProjectedGradientDescent.

    :param loss_type: `cross_entropy` or `difference_logits_ratio`.
    :return: The builder.
    """

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
        initial_const=1.0,  # at ART's 0.01 ten doublings pass before few-step runs fool anything
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
    """ART's AutoAttack; of two classes without the logits ratio, in L1 without Square, neither of which is defined."""
    losses = ["cross_entropy", *(["difference_logits_ratio"] if classifier.nb_classes > 2 else [])]
    parts = [
        *(apgd(loss)(classifier, norm, eps, settings) for loss in losses),
        deepfool(classifier, norm, eps, {"max_iter": 50}),
        *([square(classifier, norm, eps, {"max_iter": settings["queries"]})] if norm != 1 else []),
    ]
    return AutoAttack(classifier, norm=norm, eps=eps, eps_step=2 * eps, attacks=parts, batch_size=_BATCH)


def official(version: str = "standard", attacks: tuple[str, ...] | None = None) -> Builder:
    """
    The authors' AutoAttack, or single stages of it.

    :param version: `standard`, `plus` or `rand`.
    :param attacks: Single stages instead.
    :return: The builder; of the settings it takes `nb_iter`, `nb_queries`, `nb_restarts`, `eot_iter` and `seed`.
    """

    def build(classifier: PyTorchClassifier, norm: float, eps: float, settings: Settings) -> Any:
        from art_sensreg.attacks.autoattack.attack import OfficialAutoAttack

        names = ("nb_iter", "nb_queries", "nb_restarts", "eot_iter", "seed")
        chosen = {name: settings[name] for name in names if name in settings}
        return OfficialAutoAttack(classifier, norm=norm, eps=eps, version=version, attacks=attacks, **chosen)

    return build


def aimed(name: str, *uses: str, **fixed: Any) -> Builder:
    """
    One of the attacks aimed at the usual reasons why others fail.

    :param name: Name of its class in `art_sensreg.attacks`.
    :param uses: What else of the settings it takes: `donors`, `surrogates`.
    :param fixed: Arguments that are always the same.
    :return: The builder; of the settings it takes `max_iter`, `nb_restarts` and `seed` too.
    """

    def build(classifier: PyTorchClassifier, norm: float, eps: float, settings: Settings) -> Any:
        import art_sensreg.attacks

        kind = getattr(art_sensreg.attacks, name)
        taken = [key for key in ("max_iter", "nb_restarts", "seed", *uses) if key in settings]
        return kind(classifier, norm=norm, eps=eps, **fixed, **{key: settings[key] for key in taken})

    return build
