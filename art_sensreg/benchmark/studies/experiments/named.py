"""The experiments by name. A row may name a defence that this version lacks: a run says so and leaves it out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from art_sensreg.benchmark.config.optimization import OptimizationSettings
from art_sensreg.benchmark.config.request import SuiteRequest
from art_sensreg.benchmark.config.settings import RECIPES
from art_sensreg.benchmark.defences.registry import DEFENCES
from art_sensreg.benchmark.studies.experiments.ablation import variants
from art_sensreg.benchmark.studies.experiments.declaration import AIMED, Experiment, Row
from art_sensreg.benchmark.studies.experiments.goals import Goal
from art_sensreg.benchmark.studies.experiments.gpu_named import gpu_cifar10, gpu_mnist

_HEADLINE = ("carried+sr+jr", "carried", "sr+jr", "free+sr+jr")
_OURS = ("none", "sr", "jr", "sr+jr-cheap", "fgsm-rs", "n-fgsm+sr+jr")
# Rivals whose row here has a shorter name than ART's trainer in the suite.
_FBF = Row(name="fbf", defence="art-fbf-fixed", seeds=3)
_MNIST_EPS = ((0.1, 0.2, 0.3), (1.0, 1.5, 2.0))
# The carried adversary was trained so before SGD became its default on MNIST; all rivals but FBF still are.
_ADAM: dict[str, Any] = {"optimizer": "adam"}
# The free adversary before it had SGD there: with larger steps, and penalties of the whole batch.
_FREE_ADAM: dict[str, Any] = {**_ADAM, "step_share": 0.25, "penalty_fraction": 1.0}
# SR and JR alone were trained so before their noise became random signs, and the rows with a carried adversary before
# its size rose at the start; their variants still are.
_FORMER: dict[str, dict[str, Any]] = {
    "sr+jr": {"noise": "gaussian", "penalty_fraction": 1.0},
    "sr+jr-cheap": {"noise": "gaussian"},
    "carried": {"step_share": 0.5, "eps_warmup": 0.0},
    "carried+sr+jr": {"step_share": 0.5, "penalty_warmup": 0.0, "eps_warmup": 0.0},
}
# The same with smaller steps; and with penalties that rise too, as it was in between.
_SMALL_STEPS: dict[str, Any] = {"step_share": 0.125}
_FULL_SIZE: dict[str, Any] = {**_SMALL_STEPS, "penalty_warmup": 0.5}
# As it is now, with penalties of a smaller part of each batch: a cheaper step, which held-out training images did not
# tell from it.
_THIRD: dict[str, Any] = {
    **{name: RECIPES["mnist"].penalties["carried+sr+jr"][name] for name in _FORMER["carried+sr+jr"]},
    "penalty_fraction": 1 / 3,
}
# What more epochs add; the smaller steps were better with that many on held-out training images.
_LONG: dict[str, dict[str, Any]] = {
    "carried+sr+jr": {
        **_ADAM,
        "eps_step": 0.0825,
        "penalty_fraction": 0.4,
        "penalty_warmup": 0.0,
        "eps_warmup": 0.0,
    },
    "sr+jr": _FORMER["sr+jr"],
}
# A third of the steps with three times the weights: on held-out training images longer training cost SR and JR alone
# robustness at L-inf 0.3, and they had clean accuracy to spare.
_SHORT = {"sr_weight": 3.0, "jr_weight": 0.3}
# With decoupled weight decay, which held-out training images favoured in L2; the suite's rows have none. A fifth of it
# is for many steps: with all images and 25 epochs 0.5 cost robustness at L-inf 0.3.
_DECAY: dict[str, Any] = {"optimizer": "adamw", "weight_decay": 0.5}
_WEAK_DECAY: dict[str, Any] = {"optimizer": "adamw", "weight_decay": 0.1}
# How the recipe of MNIST optimises the carried adversary, for other rows and data sets; and a part of it, for FBF.
_SGD = RECIPES["mnist"].optimization["carried"]
_CLIPPED = {"max_grad_norm": _SGD["max_grad_norm"]}
# How the size of the carried adversary rises there, for rivals.
_EPS_WARMUP = {"eps_warmup": RECIPES["mnist"].penalties["carried"]["eps_warmup"]}
_CARRIED = ("carried+sr+jr", "carried")
_ADVERSARIAL = ("carried+sr+jr", "carried", "at", "trades")

# 93 at 0.3 is about what TRADES's published network keeps under AutoAttack (arXiv 2003.01690); 58 is more than SR and
# JR alone had before, and 75 between the two.
_MNIST_GOALS = (
    Goal(
        row="carried+sr+jr",
        robust={("linf", 0.1): 97, ("linf", 0.2): 95.5, ("linf", 0.3): 93},
        clean=98.5,
        step_cost=2.6,
    ),
    Goal(row="free+sr+jr", robust={("linf", 0.3): 75}, clean=98.5, step_cost=2.4),
    Goal(row="sr+jr", robust={("linf", 0.1): 95.5, ("linf", 0.2): 87, ("linf", 0.3): 58}, clean=98.7, step_cost=2.3),
)


def _headline(names: tuple[str, ...]) -> tuple[Row, ...]:
    return tuple(Row(name=name, seeds=3, points=1000, headline=True) for name in names)


def _variants(label: str, options: dict[str, Any], names: tuple[str, ...], **settings: Any) -> tuple[Row, ...]:
    """Rows called `NAME_LABEL`, with additional options."""
    return tuple(
        Row(name=f"{name}_{label}", defence=name, options={**_FORMER.get(name, {}), **options}, **settings)
        for name in names
    )


MNIST = Experiment(
    name="mnist",
    title="MNIST, 60,000 images",
    request=SuiteRequest(dataset="mnist", norms=("linf", "l2"), eps=_MNIST_EPS, budget="full", epochs=25),
    rows=(
        *_headline(_HEADLINE),
        *(Row(name=name, seeds=3) for name in _OURS),
        _FBF,
        *(Row(name=name) for name in ("at", "trades", "ibp")),
        *(
            Row(name=f"{name}_long", defence=name, options=options, settings={"epochs": 60}, points=1000)
            for name, options in _LONG.items()
        ),
        *_variants("short", _SHORT, ("sr+jr",), settings={"epochs": 8}, seeds=3, points=1000),
        *_variants("gaussian", {}, ("sr+jr",), seeds=3, points=1000, headline=True),
        *_variants("gaussian", {}, ("sr+jr-cheap",)),
        *_variants("adam", _ADAM, _CARRIED, seeds=3, points=1000, headline=True),
        *_variants("half-steps", {}, ("carried+sr+jr",), seeds=3, points=1000, headline=True),
        *_variants("small-steps", _SMALL_STEPS, ("carried+sr+jr",), seeds=3, points=1000),
        *_variants("full-size", _FULL_SIZE, ("carried+sr+jr",), seeds=3, points=1000),
        *_variants("third", _THIRD, ("carried+sr+jr",), seeds=3, points=1000),
        *_variants("full-size", {}, ("carried",), seeds=3, points=1000, headline=True),
        *_variants("adam", _FREE_ADAM, ("free+sr+jr",), points=1000, headline=True),
        *_variants("decay", _DECAY, _CARRIED, seeds=3, points=1000),
        *_variants("weak-decay", _WEAK_DECAY, _CARRIED, points=1000),
        *_variants("sgd", _SGD, ("sr+jr",), points=1000),
        # On the network that the published figures of TRADES for MNIST are of.
        *_variants("medium", {}, ("carried+sr+jr",), settings={"model": "cnn-medium"}, seeds=3, points=1000),
        *_variants("medium", {}, ("carried", "at", "trades"), settings={"model": "cnn-medium"}, points=1000),
        *_variants("medium-adam", _ADAM, _CARRIED, settings={"model": "cnn-medium"}, points=1000),
        Row(
            name="carried+sr+jr_medium-long",
            defence="carried+sr+jr",
            options=_LONG["carried+sr+jr"],
            settings={"model": "cnn-medium", "epochs": 40},
            points=1000,
        ),
    ),
    aimed=AIMED,
    audited=True,
    goals=_MNIST_GOALS,
)

_COMPARED = (
    *("carried+sr+jr", "carried", "sr+jr", "free+sr+jr", "fgsm-rs", "n-fgsm", "n-fgsm+sr+jr"),
    *("fbf", "at", "trades", "ibp"),
)


def _equal_cost(
    dataset: str,
    eps: tuple[tuple[float, ...], ...],
    seeds: int,
    train_size: int | None = None,
    others: tuple[Row, ...] = (),
) -> Experiment:
    """Each defence at each budget, under AutoAttack with fewer steps: there are many rows."""
    aliases = {"fbf": _FBF.defence}
    images = f", the first {train_size:,} training images" if train_size else ""
    return Experiment(
        name=f"equal-cost-{dataset}",
        title=f"Robustness at equal training cost, {dataset}{images}",
        request=SuiteRequest(dataset=dataset, norms=("linf", "l2"), eps=eps, budget="quick", train_size=train_size),
        rows=(
            *(Row(name=name, defence=aliases.get(name), seeds=seeds, points=300) for name in _COMPARED),
            *others,
        ),
        budgets=(10, 20, 40, 80),
    )


EQUAL_COST = (
    # All 60,000 images would take three times as long: an hour of a core for each row and seed.
    _equal_cost(
        "mnist",
        ((0.2, 0.3), (1.5, 2.0)),
        seeds=2,
        train_size=20000,
        others=(
            *_variants("gaussian", {}, ("sr+jr",), seeds=2, points=300),
            *_variants("adam", _ADAM, _CARRIED, seeds=2, points=300),
            *_variants("adam", _FREE_ADAM, ("free+sr+jr",), points=300),
            *_variants("half-steps", {}, ("carried+sr+jr",), points=300),
            *_variants("small-steps", _SMALL_STEPS, ("carried+sr+jr",), points=300),
            *_variants("full-size", _FULL_SIZE, ("carried+sr+jr",), points=300),
            *_variants("full-size", {}, ("carried",), points=300),
            *_variants("decay", _DECAY, _ADVERSARIAL, points=300),
            *_variants("sgd", _SGD, ("at", "trades"), points=300),
            *_variants("sgd-eps-warmup", {**_SGD, **_EPS_WARMUP}, ("at", "trades"), points=300),
            *_variants("eps-warmup", _EPS_WARMUP, ("at", "trades"), points=300),
            Row(name="fbf_clipped", defence=_FBF.defence, options=_CLIPPED, points=300),
        ),
    ),
    _equal_cost("digits", ((0.1, 0.2), (0.5, 1.0)), seeds=3),
)


def _digits() -> Experiment:
    slow = {name for name, defence in DEFENCES.items() if defence.certificate is not None}
    rows = tuple(Row(name=name, seeds=1 if name in slow else 5, points=450) for name in DEFENCES)
    request = SuiteRequest(dataset="digits", norms=("linf", "l2"), eps=((0.1, 0.2), (0.5, 1.0)), budget="quick")
    return Experiment(
        name="digits", title="The digits of scikit-learn, all rows", request=replace(request, test_size=450), rows=rows
    )


CIFAR10 = Experiment(
    name="cifar10-cpu",
    title="CIFAR-10 on a CPU, the first 10,000 training images, with crops and flips",
    request=SuiteRequest(
        dataset="cifar10", norms=("linf", "l2"), eps=((2 / 255, 4 / 255, 8 / 255), (0.25, 0.5, 1.0)), budget="full",
        train_size=10000, norm_layer="batch", optimization=OptimizationSettings(augment="crop=4,flip"),
    ),
    rows=(
        *(Row(name=name, points=500, headline=True) for name in _HEADLINE),
        *(Row(name=name) for name in ("none", "fgsm-rs", "n-fgsm", "n-fgsm+sr+jr", "fgsm-pgi", "at")),
        *_variants("decay", _DECAY, ("carried", "at")),
        *_variants("sgd", _SGD, ("carried", "at")),
    ),
    aimed=AIMED,
    audited=True,
)  # fmt: skip

ABLATION = Experiment(
    name="ablation-mnist",
    title="Ablation on MNIST, held-out training images",
    request=SuiteRequest(
        dataset="mnist", eps=((0.2, 0.3),), budget="quick", train_size=20000, epochs=6, test_size=1000,
        validation=True,
    ),
    rows=tuple(
        Row(name=variant.name, defence=variant.defence, options=variant.options, settings=variant.settings,
            seeds=3, points=300, of=variant.of)
        for variant in variants()
    ),
)  # fmt: skip

INTERPRET = replace(
    MNIST,
    name="interpret",
    title="Explanations of the headline rows on MNIST",
    rows=(
        *(Row(name=name, seeds=3, points=0) for name in ("sr+jr", "free+sr+jr")),
        *_variants("gaussian", {}, ("sr+jr",), seeds=3, points=0),
        *_variants("adam", _ADAM, _CARRIED, seeds=3, points=0),
        Row(name="none", seeds=3, points=0),
        Row(name="at", points=0),
    ),
    aimed=(),
    audited=False,
    explained=True,
    costed=False,
    goals=(),
    folder="mnist",
)

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        *(_digits(), MNIST, *EQUAL_COST, CIFAR10, ABLATION, INTERPRET),
        *(gpu_mnist(MNIST), gpu_cifar10()),
    )
}
