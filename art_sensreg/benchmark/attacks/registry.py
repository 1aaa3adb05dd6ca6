"""The attacks of the suite by name, with their strength at each budget."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from art_sensreg.benchmark.attacks import builders as build
from art_sensreg.benchmark.config.threat_models import NORMS, perturbation_size

__all__ = ["ATTACKS", "Attack", "DEFAULT_ATTACKS", "NORMS", "ordered", "perturbation_size"]


@dataclass(frozen=True)
class Attack:
    """
    An attack of the suite.

    :param name: Name on the command line.
    :param summary: One line.
    :param paper: Where it comes from.
    :param build: Function of the classifier, the norm (`np.inf`, 2 or 1), eps and the settings, returning ART's attack.
        Beside its strength the settings hold `seed`, `donors` (images and labels of training data) and `surrogates`.
    :param settings: Its strength by budget; `points` limits the number of images of a slow attack.
    :param cost: Rank by cost: attacks run in this order, and later ones see what earlier ones left.
    :param norms: Norms that it is defined in.
    :param minimal_norm: Whether it looks for the smallest perturbation: such an attack runs once and counts at each eps
        where its perturbation is within it.
    :param min_classes: Fewest classes for which it is defined.
    :param art: Whether it is one of ART's; others see through preprocessing themselves.
    :param black_box: Whether it uses no gradients.
    :param square_images: Whether it fails on images that are not square.
    :param needs_surrogates: Whether it needs other trained models of the same run.
    """

    name: str
    summary: str
    paper: str
    build: build.Builder
    settings: dict[str, dict[str, Any]]
    cost: int
    norms: tuple[str, ...] = tuple(NORMS)
    minimal_norm: bool = False
    min_classes: int = 2
    art: bool = True
    black_box: bool = False
    needs_surrogates: bool = False
    square_images: bool = False

    def refusal(self, norm: str, input_shape: tuple[int, ...]) -> str | None:
        """
        Why it cannot run, if so.

        :param norm: Norm of the perturbations.
        :param input_shape: Shape of an image.
        :return: The reason, or None.
        """
        if norm not in self.norms:
            return f"is not defined in {norm}"
        if self.square_images and len(set(input_shape[-2:])) > 1:
            return f"as ART has it needs square images; these are {input_shape[-2]} x {input_shape[-1]}"
        return None


def _by_budget(smoke: dict[str, Any], quick: dict[str, Any], full: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {"smoke": smoke, "quick": quick, "full": full}


_APGD_PAPER = "Croce and Hein 2020, arXiv 2003.01690"
_APGD = _by_budget({"max_iter": 20, "restarts": 1}, {"max_iter": 100, "restarts": 1}, {"max_iter": 100, "restarts": 5})
# At full, everything as the authors have it: the figure that papers publish.
_OFFICIAL = _by_budget({"nb_iter": 10, "nb_queries": 50, "points": 50}, {"nb_iter": 30, "nb_queries": 500}, {})
_AIMED = _by_budget(
    {"max_iter": 20, "nb_restarts": 2}, {"max_iter": 40, "nb_restarts": 2}, {"max_iter": 100, "nb_restarts": 10}
)

_OF_ART = (
    Attack(
        "fgm",
        "Fast gradient method, one step",
        "Goodfellow et al. 2015, arXiv 1412.6572",
        build.fgm,
        _by_budget({}, {}, {}),
        cost=1,
    ),
    Attack(
        "pgd",
        "Projected gradient descent, 40 steps, 2 random starts (5 at full budget)",
        "Madry et al. 2018, arXiv 1706.06083",
        build.pgd,
        _by_budget({"max_iter": 40, "restarts": 2}, {"max_iter": 40, "restarts": 2}, {"max_iter": 40, "restarts": 5}),
        cost=2,
    ),
    Attack("apgd-ce", "Auto-PGD on cross-entropy", _APGD_PAPER, build.apgd("cross_entropy"), _APGD, cost=3),
    Attack(
        "apgd-dlr",
        "Auto-PGD on the difference of logits ratio",
        _APGD_PAPER,
        build.apgd("difference_logits_ratio"),
        _APGD,
        cost=4,
        min_classes=3,
    ),
    Attack(
        "square",
        "Square attack, black box",
        "Andriushchenko et al. 2020, arXiv 1912.00049",
        build.square,
        _by_budget({"max_iter": 60}, {"max_iter": 300}, {"max_iter": 5000}),
        cost=13,
        norms=("linf", "l2"),
        black_box=True,
        square_images=True,
    ),
    Attack(
        "deepfool",
        "DeepFool, minimal L2 perturbation",
        "Moosavi-Dezfooli et al. 2016, arXiv 1511.04599",
        build.deepfool,
        _by_budget({"max_iter": 20, "points": 50}, {"max_iter": 50, "points": 100}, {"max_iter": 100}),
        cost=12,
        minimal_norm=True,
    ),
    Attack(
        "carlini-l2",
        "Carlini and Wagner, minimal L2 perturbation",
        "Carlini and Wagner 2017, arXiv 1608.04644",
        build.carlini,
        _by_budget(
            {"max_iter": 10, "binary_search_steps": 4, "points": 50},
            {"max_iter": 20, "binary_search_steps": 5, "points": 25},
            {"max_iter": 50, "binary_search_steps": 9, "points": 1000},
        ),
        cost=17,
        minimal_norm=True,
    ),
    Attack(
        "hopskipjump",
        "HopSkipJump, decisions only, minimal perturbation",
        "Chen et al. 2020, arXiv 1904.02144",
        build.hop_skip_jump,
        _by_budget(
            {"max_iter": 5, "max_eval": 200, "points": 10},
            {"max_iter": 20, "max_eval": 1000, "points": 10},
            {"max_iter": 50, "max_eval": 10000, "points": 100},
        ),
        cost=19,
        norms=("linf", "l2"),
        minimal_norm=True,
        black_box=True,
    ),
    Attack(
        "art-autoattack",
        "ART's AutoAttack: APGD-CE, APGD-DLR, DeepFool, Square (not the official one)",
        _APGD_PAPER,
        build.art_auto_attack,
        _by_budget(
            {"max_iter": 20, "restarts": 1, "queries": 100, "points": 100},
            {"max_iter": 100, "restarts": 1, "queries": 1000, "points": 200},
            {"max_iter": 100, "restarts": 5, "queries": 5000},
        ),
        cost=18,
        square_images=True,
    ),
)

_OFFICIAL_ONES = (
    Attack(
        "autoattack",
        "The authors' AutoAttack, standard: APGD-CE, targeted APGD, targeted FAB, Square (reduced below full budget)",
        _APGD_PAPER,
        build.official(),
        _OFFICIAL,
        cost=16,
        min_classes=4,
        art=False,
    ),
    Attack(
        "autoattack-plus",
        "The authors' AutoAttack, plus: more stages and restarts",
        _APGD_PAPER,
        build.official("plus"),
        _by_budget({**_OFFICIAL["smoke"], "nb_restarts": 1}, {**_OFFICIAL["quick"], "nb_restarts": 2}, {}),
        cost=20,
        min_classes=4,
        art=False,
    ),
    Attack(
        "autoattack-rand",
        "The authors' AutoAttack for random models: gradients averaged over samples",
        _APGD_PAPER,
        build.official("rand"),
        _by_budget({"nb_iter": 20, "eot_iter": 4}, {"nb_iter": 50, "eot_iter": 20}, {}),
        cost=15,
        min_classes=3,
        art=False,
    ),
    Attack(
        "apgd-t",
        "The authors' targeted Auto-PGD",
        _APGD_PAPER,
        build.official(attacks=("apgd-t",)),
        _OFFICIAL,
        cost=9,
        min_classes=4,
        art=False,
    ),
    Attack(
        "fab-t",
        "The authors' targeted FAB, minimal perturbation",
        "Croce and Hein 2020, arXiv 1907.02044",
        build.official(attacks=("fab-t",)),
        _OFFICIAL,
        cost=14,
        art=False,
    ),
)

_AIMED_ONES = (
    Attack(
        "hidden-away",
        "Aimed: hidden activations away from the image's own, which sensitivity regularisation suppresses",
        "Fidel et al. 2020, arXiv 2009.11349 (the term attacked)",
        build.aimed("HiddenDistanceAttack", "donors", direction="away"),
        _AIMED,
        cost=6,
        art=False,
    ),
    Attack(
        "hidden-towards",
        "Aimed: hidden activations towards those of another class",
        "Sabour et al. 2016, arXiv 1511.05122",
        build.aimed("HiddenDistanceAttack", "donors", direction="towards"),
        _AIMED,
        cost=7,
        art=False,
    ),
    Attack(
        "far-starts",
        "Aimed: many starts on the border and towards other classes, for models that are flat around the images",
        "Tramer et al. 2018, arXiv 1705.07204",
        build.aimed("FarStartsAttack"),
        _by_budget(
            {"max_iter": 20, "nb_restarts": 3}, {"max_iter": 40, "nb_restarts": 4}, {"max_iter": 100, "nb_restarts": 20}
        ),
        cost=8,
        art=False,
    ),
    Attack(
        "scaled-logits",
        "Aimed: logits times 1, 10, 100, at unit scale, and in float64",
        "Carlini and Wagner 2017, arXiv 1608.04644",
        build.aimed("ScaledLogitsAttack"),
        _by_budget(
            {"max_iter": 20, "nb_restarts": 1}, {"max_iter": 40, "nb_restarts": 1}, {"max_iter": 100, "nb_restarts": 5}
        ),
        cost=10,
        art=False,
    ),
    Attack(
        "targeted-margin",
        "Aimed: the margin of one other class after the other",
        "Gowal et al. 2019, arXiv 1910.09338",
        build.aimed("TargetedMarginAttack"),
        _by_budget(
            {"max_iter": 20, "nb_restarts": 1}, {"max_iter": 40, "nb_restarts": 1}, {"max_iter": 100, "nb_restarts": 5}
        ),
        cost=11,
        art=False,
    ),
    Attack(
        "transfer",
        "Aimed: ascent on the undefended and the adversarially trained models of the same run, tried on this one",
        "Liu et al. 2017, arXiv 1611.02770",
        build.aimed("TransferAttack", "surrogates"),
        _by_budget(
            {"max_iter": 20, "nb_restarts": 1}, {"max_iter": 40, "nb_restarts": 2}, {"max_iter": 100, "nb_restarts": 5}
        ),
        cost=5,
        art=False,
        needs_surrogates=True,
    ),
    Attack(
        "kitchen-sink",
        "Aimed: long ascent with every loss, start, schedule and step size in turn, on few images",
        "Tramer et al. 2020, arXiv 2002.08347",
        build.aimed("KitchenSinkAttack", "donors", max_points=10**9),  # the suite limits the images itself
        _by_budget(
            {"max_iter": 50, "nb_restarts": 10, "points": 20},
            {"max_iter": 200, "nb_restarts": 20, "points": 50},
            {"max_iter": 1000, "nb_restarts": 20, "points": 100},
        ),
        cost=21,
        art=False,
    ),
)

ATTACKS = {attack.name: attack for attack in (*_OF_ART, *_OFFICIAL_ONES, *_AIMED_ONES)}

DEFAULT_ATTACKS = {
    "smoke": ("fgm", "pgd", "apgd-ce", "apgd-dlr", "square", "deepfool", "autoattack"),
    "quick": (
        *("fgm", "pgd", "apgd-ce", "apgd-dlr", "square", "deepfool", "autoattack", "carlini-l2", "hopskipjump"),
        *("transfer", "hidden-away", "hidden-towards", "far-starts", "scaled-logits", "targeted-margin"),
    ),
    "full": tuple(ATTACKS),
}


def ordered(names: Iterable[str], both_views: bool = False) -> list[str]:
    """
    Attacks in the order in which they run: cheap ones first.

    :param names: Names of attacks.
    :param both_views: Whether a model is attacked as ART does by default, and with BPDA and EOT: then ART's gradient
        attacks go first, so that what they alone leave can be compared between the two.
    :return: The names in order.

    Example:
    >>> from art_sensreg.benchmark.attacks.registry import ordered
    >>> ordered(["square", "autoattack", "pgd", "fgm"])
    ['fgm', 'pgd', 'square', 'autoattack']
    """

    def rank(name: str) -> tuple[bool, bool, int]:
        attack = ATTACKS[name]
        return both_views and not attack.art, both_views and attack.black_box, attack.cost

    return sorted(names, key=rank)
