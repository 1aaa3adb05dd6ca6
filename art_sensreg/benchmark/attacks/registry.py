"""The attacks of the suite by name, in the order in which they run, with their strength at each budget."""

from __future__ import annotations

from collections.abc import Iterable

from art_sensreg.attacks import (
    FarStartsAttack,
    HiddenDistanceAttack,
    KitchenSinkAttack,
    ScaledLogitsAttack,
    TargetedMarginAttack,
    TransferAttack,
)
from art_sensreg.benchmark.attacks import builders as build
from art_sensreg.benchmark.attacks.spec import AttackSpec, Settings
from art_sensreg.benchmark.config.names import check_new_name
from art_sensreg.benchmark.config.settings import BUDGETS
from art_sensreg.utils import check_choice


def _by_budget(smoke: Settings, quick: Settings, full: Settings) -> dict[str, Settings]:
    return {"smoke": smoke, "quick": quick, "full": full}


def _ascent(*strength: tuple[int, int]) -> dict[str, Settings]:
    """Steps and restarts at each budget."""
    return _by_budget(*({"max_iter": steps, "nb_restarts": restarts} for steps, restarts in strength))


_APGD_PAPER = "Croce and Hein 2020, arXiv 2003.01690"
_APGD = _by_budget({"max_iter": 20, "restarts": 1}, {"max_iter": 100, "restarts": 1}, {"max_iter": 100, "restarts": 5})
# At full budget the authors' settings apply, as for published figures.
_OFFICIAL = _by_budget({"nb_iter": 10, "nb_queries": 50}, {"nb_iter": 30, "nb_queries": 500}, {})

# Cheap ones first: each attack sees the images that those before it left.
_IN_ORDER = (
    AttackSpec(
        "fgm",
        "Fast gradient method, one step",
        "Goodfellow et al. 2015, arXiv 1412.6572",
        build.fgm,
        default_from="smoke",
    ),
    AttackSpec(
        "pgd",
        "Projected gradient descent, 40 steps, 2 random starts (5 at full budget)",
        "Madry et al. 2018, arXiv 1706.06083",
        build.pgd,
        _by_budget({"max_iter": 40, "restarts": 2}, {"max_iter": 40, "restarts": 2}, {"max_iter": 40, "restarts": 5}),
        default_from="smoke",
    ),
    AttackSpec(
        "apgd-ce",
        "Auto-PGD on cross-entropy",
        _APGD_PAPER,
        build.apgd("cross_entropy"),
        _APGD,
        default_from="smoke",
    ),
    AttackSpec(
        "apgd-dlr",
        "Auto-PGD on the difference of logits ratio",
        _APGD_PAPER,
        build.apgd("difference_logits_ratio"),
        _APGD,
        default_from="smoke",
        min_classes=3,
    ),
    AttackSpec(
        "transfer",
        "Ascent on the undefended and adversarially trained models of the same run, tried on this one",
        "Liu et al. 2017, arXiv 1611.02770",
        build.ours(TransferAttack, "surrogates"),
        _ascent((20, 1), (40, 2), (100, 5)),
        default_from="quick",
        art=False,
        needs_surrogates=True,
    ),
    AttackSpec(
        "hidden-away",
        "Moves hidden activations away from the image's own, which sensitivity regularisation suppresses",
        "Fidel et al. 2020, arXiv 2009.11349 (the term attacked)",
        build.ours(HiddenDistanceAttack, "guides", direction="away"),
        _ascent((20, 2), (40, 2), (100, 10)),
        default_from="quick",
        art=False,
    ),
    AttackSpec(
        "hidden-towards",
        "Moves hidden activations towards those of another class",
        "Sabour et al. 2016, arXiv 1511.05122",
        build.ours(HiddenDistanceAttack, "guides", direction="towards"),
        _ascent((20, 2), (40, 2), (100, 10)),
        default_from="quick",
        art=False,
    ),
    AttackSpec(
        "far-starts",
        "Many starts on the border and towards other classes, for models that are flat around the images",
        "Tramer et al. 2018, arXiv 1705.07204",
        build.ours(FarStartsAttack),
        _ascent((20, 3), (40, 4), (100, 20)),
        default_from="quick",
        art=False,
    ),
    AttackSpec(
        "apgd-t",
        "The authors' targeted Auto-PGD",
        _APGD_PAPER,
        build.official(attacks=("apgd-t",)),
        _OFFICIAL,
        min_classes=4,
        art=False,
    ),
    AttackSpec(
        "scaled-logits",
        "Logits times 1, 10, 100, at unit scale, and in float64",
        "Carlini and Wagner 2017, arXiv 1608.04644",
        build.ours(ScaledLogitsAttack),
        _ascent((20, 1), (40, 1), (100, 5)),
        default_from="quick",
        art=False,
    ),
    AttackSpec(
        "targeted-margin",
        "The margin of each other class in turn",
        "Gowal et al. 2019, arXiv 1910.09338",
        build.ours(TargetedMarginAttack),
        _ascent((20, 1), (40, 1), (100, 5)),
        default_from="quick",
        art=False,
    ),
    AttackSpec(
        "deepfool",
        "DeepFool, minimal L2 perturbation",
        "Moosavi-Dezfooli et al. 2016, arXiv 1511.04599",
        build.deepfool,
        _by_budget({"max_iter": 20}, {"max_iter": 50, "points": 100}, {"max_iter": 100}),
        default_from="smoke",
        minimal_norm=True,
    ),
    AttackSpec(
        "square",
        "Square attack, black box",
        "Andriushchenko et al. 2020, arXiv 1912.00049",
        build.square,
        _by_budget({"max_iter": 60}, {"max_iter": 300}, {"max_iter": 5000}),
        default_from="smoke",
        norms=("linf", "l2"),
        black_box=True,
        square_images=True,
    ),
    AttackSpec(
        "fab-t",
        "The authors' targeted FAB, minimal perturbation",
        "Croce and Hein 2020, arXiv 1907.02044",
        build.official(attacks=("fab-t",)),
        _OFFICIAL,
        art=False,
    ),
    AttackSpec(
        "autoattack-rand",
        "The authors' AutoAttack for random models: gradients averaged over samples",
        _APGD_PAPER,
        build.official("rand"),
        _by_budget({"nb_iter": 20, "eot_iter": 4}, {"nb_iter": 50, "eot_iter": 20}, {}),
        min_classes=3,
        art=False,
    ),
    AttackSpec(
        "autoattack",
        "The authors' AutoAttack, standard: APGD-CE, targeted APGD, targeted FAB, Square (reduced below full budget)",
        _APGD_PAPER,
        build.official(),
        _OFFICIAL,
        default_from="smoke",
        min_classes=4,
        art=False,
        package="pyautoattack",
    ),
    AttackSpec(
        "carlini-l2",
        "Carlini and Wagner, minimal L2 perturbation",
        "Carlini and Wagner 2017, arXiv 1608.04644",
        build.carlini,
        _by_budget(
            {"max_iter": 10, "binary_search_steps": 4, "points": 50},
            {"max_iter": 20, "binary_search_steps": 5, "points": 25},
            {"max_iter": 50, "binary_search_steps": 9, "points": 1000},
        ),
        default_from="quick",
        minimal_norm=True,
    ),
    AttackSpec(
        "art-autoattack",
        "ART's AutoAttack: APGD-CE, APGD-DLR, DeepFool, Square (not the official one)",
        _APGD_PAPER,
        build.art_auto_attack,
        _by_budget(
            {"max_iter": 20, "restarts": 1, "queries": 100, "points": 100},
            {"max_iter": 100, "restarts": 1, "queries": 1000, "points": 200},
            {"max_iter": 100, "restarts": 5, "queries": 5000},
        ),
        square_images=True,
    ),
    AttackSpec(
        "hopskipjump",
        "HopSkipJump, decisions only, minimal perturbation",
        "Chen et al. 2020, arXiv 1904.02144",
        build.hop_skip_jump,
        _by_budget(
            {"max_iter": 5, "max_eval": 200, "points": 10},
            {"max_iter": 20, "max_eval": 1000, "points": 10},
            {"max_iter": 50, "max_eval": 10000, "points": 100},
        ),
        default_from="quick",
        norms=("linf", "l2"),
        minimal_norm=True,
        black_box=True,
    ),
    AttackSpec(
        "autoattack-plus",
        "The authors' AutoAttack, plus: more stages and restarts",
        _APGD_PAPER,
        build.official("plus"),
        _by_budget({**_OFFICIAL["smoke"], "nb_restarts": 1}, {**_OFFICIAL["quick"], "nb_restarts": 2}, {}),
        min_classes=4,
        art=False,
    ),
    AttackSpec(
        "kitchen-sink",
        "Long ascent with every loss, start, schedule and step size in turn, on few images",
        "Tramer et al. 2020, arXiv 2002.08347",
        build.ours(KitchenSinkAttack, "guides", max_points=10**9),  # the suite limits the images itself
        _by_budget(
            {"max_iter": 50, "nb_restarts": 10, "points": 20},
            {"max_iter": 200, "nb_restarts": 20, "points": 50},
            {"max_iter": 1000, "nb_restarts": 20, "points": 100},
        ),
        art=False,
    ),
)

ATTACKS: dict[str, AttackSpec] = {attack.name: attack for attack in _IN_ORDER}


def register_attack(attack: AttackSpec, before: str | None = None) -> AttackSpec:
    """
    Add an attack to the suite: from then on its name works on the command line.

    :param attack: The attack.
    :param before: Name of the attack before which it runs; None: it runs last, on the images that all others left.
    :return: The same attack.
    :raises ValueError: If the name is taken or cannot be part of a list or a file's name, or if there is no attack
        called `before`.

    Example:
    >>> from art_sensreg.benchmark.attacks import ATTACKS, register_attack
    >>> register_attack(ATTACKS["pgd"])
    Traceback (most recent call last):
    ValueError: `name` is 'pgd', which is taken; expected a new one.
    """
    check_new_name(attack.name, ATTACKS)
    if before is not None:
        check_choice("before", before, tuple(ATTACKS))
    later = list(ATTACKS)[list(ATTACKS).index(before) :] if before is not None else []
    moved = {name: ATTACKS.pop(name) for name in later}
    ATTACKS.update({attack.name: attack, **moved})
    return attack


def default_attacks(budget: str) -> tuple[str, ...]:
    """
    The attacks that run unless others are named.

    :param budget: `smoke`, `quick` or `full`.
    :return: Their names, in the order in which they run.

    Example:
    >>> from art_sensreg.benchmark.attacks import default_attacks
    >>> default_attacks("smoke")
    ('fgm', 'pgd', 'apgd-ce', 'apgd-dlr', 'deepfool', 'square', 'autoattack')
    """
    reached = BUDGETS[: BUDGETS.index(budget) + 1]
    return tuple(attack.name for attack in ATTACKS.values() if attack.default_from in reached)


def ordered(names: Iterable[str], both_views: bool = False) -> list[str]:
    """
    Attacks in the order in which they run: cheap ones first.

    :param names: Names of attacks.
    :param both_views: Whether the model is attacked both as ART does by default and with BPDA and EOT. ART's gradient
        attacks then come first, so that their results can be compared between the two.
    :return: The names in order.

    Example:
    >>> from art_sensreg.benchmark.attacks.registry import ordered
    >>> ordered(["square", "autoattack", "pgd", "fgm"])
    ['fgm', 'pgd', 'square', 'autoattack']
    """
    wanted = set(names)
    in_order = [name for name in ATTACKS if name in wanted]
    if both_views:  # the sort is stable
        in_order.sort(key=lambda name: (not ATTACKS[name].art, ATTACKS[name].black_box))
    return in_order
