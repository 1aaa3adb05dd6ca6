"""ART's attacks by name, with their strength at each budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
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

NORMS: dict[str, float] = {"linf": np.inf, "l2": 2}


@dataclass(frozen=True)
class Attack:
    """
    An attack of the suite.

    :param name: Name on the command line.
    :param summary: One line.
    :param paper: Where it comes from.
    :param build: Function of the classifier, the norm (`np.inf` or 2), eps and the settings, returning ART's attack.
    :param settings: Its strength by budget; `points` limits the number of images of a slow attack.
    :param minimal_norm: Whether it looks for the smallest perturbation: such an attack runs once and counts at each eps
        where its perturbation is within it.
    :param min_classes: Fewest classes for which it is defined.
    """

    name: str
    summary: str
    paper: str
    build: Callable[[PyTorchClassifier, float, float, dict[str, Any]], Any]
    settings: dict[str, dict[str, Any]]
    minimal_norm: bool = False
    min_classes: int = 2


def _fgm(classifier: PyTorchClassifier, norm: float, eps: float, settings: dict[str, Any]) -> Any:
    return FastGradientMethod(classifier, norm=norm, eps=eps, batch_size=128)


def _pgd(classifier: PyTorchClassifier, norm: float, eps: float, settings: dict[str, Any]) -> Any:
    steps, restarts = settings["max_iter"], settings["restarts"]
    # Step size 2.5 eps / steps: Madry et al. 2018, section 5.1's rule for reaching the border from any start.
    return ProjectedGradientDescent(
        classifier,
        norm=norm,
        eps=eps,
        eps_step=2.5 * eps / steps,
        max_iter=steps,
        num_random_init=restarts,
        batch_size=128,
        verbose=False,
    )


def _apgd(loss_type: str) -> Callable[[PyTorchClassifier, float, float, dict[str, Any]], Any]:
    def build(classifier: PyTorchClassifier, norm: float, eps: float, settings: dict[str, Any]) -> Any:
        return AutoProjectedGradientDescent(
            classifier,
            norm=norm,
            eps=eps,
            eps_step=2 * eps,  # the authors' first step; ART's default is 0.1 whatever eps is
            max_iter=settings["max_iter"],
            nb_random_init=settings["restarts"],
            batch_size=128,
            loss_type=loss_type,
            verbose=False,
        )

    return build


def _square(classifier: PyTorchClassifier, norm: float, eps: float, settings: dict[str, Any]) -> Any:
    return SquareAttack(
        classifier, norm=norm, eps=eps, max_iter=settings["max_iter"], nb_restarts=1, batch_size=128, verbose=False
    )


def _deepfool(classifier: PyTorchClassifier, norm: float, eps: float, settings: dict[str, Any]) -> Any:
    return DeepFool(classifier, max_iter=settings["max_iter"], epsilon=1e-3, batch_size=128, verbose=False)


def _carlini(classifier: PyTorchClassifier, norm: float, eps: float, settings: dict[str, Any]) -> Any:
    return CarliniL2Method(
        classifier,
        max_iter=settings["max_iter"],
        binary_search_steps=settings["binary_search_steps"],
        initial_const=1.0,  # at ART's 0.01 ten doublings pass before few-step runs fool anything
        learning_rate=0.05,
        batch_size=128,
        verbose=False,
    )


def _hop_skip_jump(classifier: PyTorchClassifier, norm: float, eps: float, settings: dict[str, Any]) -> Any:
    return HopSkipJump(
        classifier, norm=norm, max_iter=settings["max_iter"], max_eval=settings["max_eval"], init_eval=10, verbose=False
    )


def _auto_attack(classifier: PyTorchClassifier, norm: float, eps: float, settings: dict[str, Any]) -> Any:
    losses = ["cross_entropy", *(["difference_logits_ratio"] if classifier.nb_classes > 2 else [])]
    parts = [
        *(_apgd(loss)(classifier, norm, eps, settings) for loss in losses),
        _deepfool(classifier, norm, eps, {"max_iter": 50}),
        _square(classifier, norm, eps, {"max_iter": settings["queries"]}),
    ]
    return AutoAttack(classifier, norm=norm, eps=eps, eps_step=2 * eps, attacks=parts, batch_size=128)


def _by_budget(smoke: dict[str, Any], quick: dict[str, Any], full: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {"smoke": smoke, "quick": quick, "full": full}


_APGD = _by_budget({"max_iter": 20, "restarts": 1}, {"max_iter": 100, "restarts": 1}, {"max_iter": 100, "restarts": 5})

ATTACKS = {
    attack.name: attack
    for attack in (
        Attack(
            "fgm",
            "Fast gradient method, one step",
            "Goodfellow et al. 2015, arXiv 1412.6572",
            _fgm,
            _by_budget({}, {}, {}),
        ),
        Attack(
            "pgd",
            "Projected gradient descent, 40 steps, 2 random starts (5 at full budget)",
            "Madry et al. 2018, arXiv 1706.06083",
            _pgd,
            _by_budget(
                {"max_iter": 40, "restarts": 2}, {"max_iter": 40, "restarts": 2}, {"max_iter": 40, "restarts": 5}
            ),
        ),
        Attack(
            "apgd-ce",
            "Auto-PGD on cross-entropy",
            "Croce and Hein 2020, arXiv 2003.01690",
            _apgd("cross_entropy"),
            _APGD,
        ),
        Attack(
            "apgd-dlr",
            "Auto-PGD on the difference of logits ratio",
            "Croce and Hein 2020, arXiv 2003.01690",
            _apgd("difference_logits_ratio"),
            _APGD,
            min_classes=3,
        ),
        Attack(
            "square",
            "Square attack, black box",
            "Andriushchenko et al. 2020, arXiv 1912.00049",
            _square,
            _by_budget({"max_iter": 60}, {"max_iter": 1000}, {"max_iter": 5000}),
        ),
        Attack(
            "deepfool",
            "DeepFool, minimal L2 perturbation",
            "Moosavi-Dezfooli et al. 2016, arXiv 1511.04599",
            _deepfool,
            _by_budget({"max_iter": 20}, {"max_iter": 50}, {"max_iter": 100}),
            minimal_norm=True,
        ),
        Attack(
            "carlini-l2",
            "Carlini and Wagner, minimal L2 perturbation",
            "Carlini and Wagner 2017, arXiv 1608.04644",
            _carlini,
            _by_budget(
                {"max_iter": 10, "binary_search_steps": 4, "points": 50},
                {"max_iter": 20, "binary_search_steps": 6, "points": 200},
                {"max_iter": 50, "binary_search_steps": 9, "points": 1000},
            ),
            minimal_norm=True,
        ),
        Attack(
            "hopskipjump",
            "HopSkipJump, decisions only, minimal perturbation",
            "Chen et al. 2020, arXiv 1904.02144",
            _hop_skip_jump,
            _by_budget(
                {"max_iter": 5, "max_eval": 200, "points": 10},
                {"max_iter": 20, "max_eval": 1000, "points": 20},
                {"max_iter": 50, "max_eval": 10000, "points": 100},
            ),
            minimal_norm=True,
        ),
        Attack(
            "art-autoattack",
            "ART's AutoAttack: APGD-CE, APGD-DLR, DeepFool, Square (not the official one)",
            "Croce and Hein 2020, arXiv 2003.01690",
            _auto_attack,
            _by_budget(
                {"max_iter": 20, "restarts": 1, "queries": 100, "points": 100},
                {"max_iter": 100, "restarts": 1, "queries": 1000, "points": 200},
                {"max_iter": 100, "restarts": 5, "queries": 5000},
            ),
        ),
    )
}

DEFAULT_ATTACKS = {
    "smoke": ("fgm", "pgd", "apgd-ce", "apgd-dlr", "square", "deepfool"),
    "quick": ("fgm", "pgd", "apgd-ce", "apgd-dlr", "square", "deepfool", "carlini-l2", "hopskipjump"),
    "full": tuple(ATTACKS),
}


def perturbation_size(x: np.ndarray, x_adv: np.ndarray, norm: str) -> np.ndarray:
    """
    Size of each row's perturbation; infinite where it is not finite, so that it counts at no eps.

    :param x: Images, `(n, ...)`.
    :param x_adv: Adversarial images.
    :param norm: `linf` or `l2`.
    :return: Array of shape `(n,)`.

    Example:
    >>> from art_sensreg.benchmark.attacks import perturbation_size
    >>> perturbation_size(np.zeros((1, 2)), np.array([[3.0, 4.0]]), "l2").tolist()
    [5.0]
    """
    difference = (np.asarray(x_adv, dtype=np.float64) - x).reshape(len(x), int(np.prod(x.shape[1:])))
    size = np.abs(difference).max(axis=1) if norm == "linf" else np.sqrt((difference**2).sum(axis=1))
    return np.where(np.isfinite(size), size, np.inf)
