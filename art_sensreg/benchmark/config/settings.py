"""The settings of a run of the suite, and the defaults of each data set and budget."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from art_sensreg.benchmark.config.optimization import OPTIMIZATION_OPTIONS, SGD_LEARNING_RATE, OptimizationSettings
from art_sensreg.benchmark.config.threat_models import Threats, threats_to_dict
from art_sensreg.presets import PRESETS, PenaltySettings

BUDGETS = ("smoke", "quick", "full")
SALIENCY = "saliency.png"
# Settings that are stored only if they are used.
_LATER = ("weights", "network_crc32", "penalties", *OPTIMIZATION_OPTIONS)


@dataclass(frozen=True)
class Recipe:
    """
    Defaults of a data set; the settings of its penalties are those of `art_sensreg.presets`.

    :param model: Name of the model.
    :param eps: Attack sizes of each norm; the largest is also used in adversarial training.
    :param epochs: Passes over the training data.
    :param batch_size: Examples in a training step.
    :param learning_rate: Peak of the schedule, for Adam.
    :param test_size: Test images that are attacked, by budget.
    :param penalties: Settings of the penalties, and of the adversaries that go with them, by defence.
    :param optimization: How the weights of some defences are optimised, by defence: where a run asks for no optimizer
        and no learning rate.
    :param threads: Threads of torch: one if the images are so small that distributing work costs more than doing it.
        None, or a set `OMP_NUM_THREADS`, leaves the choice to torch.
    """

    model: str
    eps: dict[str, tuple[float, ...]]
    epochs: int
    batch_size: int
    learning_rate: float
    test_size: dict[str, int]
    penalties: dict[str, dict[str, Any]] = field(default_factory=dict)
    optimization: dict[str, dict[str, Any]] = field(default_factory=dict)
    threads: int | None = None

    def rate(self, optimizer: str | None) -> float:
        """The learning rate for an optimizer."""
        return SGD_LEARNING_RATE if optimizer == "sgd" else self.learning_rate

    def options(
        self, defence: str, given: Mapping[str, Any], asked: OptimizationSettings, learning_rate: float | None
    ) -> dict[str, Any]:
        """
        The options of a defence, with how this data set's recipe optimises it where neither they nor the run do.

        :param defence: Its name.
        :param given: Its options as they were given.
        :param asked: What the run asks for.
        :param learning_rate: The learning rate that the run asks for, or None.
        :return: All options that are not left to the defence itself.
        """
        if asked.optimizer is not None or learning_rate is not None or "optimizer" in given:
            return dict(given)
        own = self.optimization.get(defence, {})
        return {**{name: value for name, value in own.items() if asked.given.get(name) is None}, **given}

    def left_alone(self, defence: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Its settings of the penalties of a defence that some options do not replace."""
        return {name: value for name, value in self.penalties.get(defence, {}).items() if name not in options}


# At a large rate, with clipped gradients: without clipping, training gets stuck predicting one class. Chosen on
# held-out training images; FBF's own optimizer has a rate and a decay like these.
_SGD: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.2, "weight_decay": 5e-4, "max_grad_norm": 0.5}
_HYBRIDS = ("fgsm-rs+sr+jr", "n-fgsm+sr+jr", "at+sr+jr", "trades+sr+jr")


def _penalties(preset: PenaltySettings) -> dict[str, dict[str, Any]]:
    """Options of the defences, by their names."""
    sensitivity = {"sigma": preset.sigma, "sr_weight": preset.sr_weight}
    both = {**sensitivity, "noise": preset.noise, "jr_weight": preset.jr_weight}
    hybrid = {"sr_weight": preset.adversarial_sr, "jr_weight": preset.adversarial_jr}
    return {
        "sr": sensitivity,
        "jr": {"jr_weight": preset.jr_alone},
        "sr+jr": {**both, "penalty_fraction": preset.fraction},
        "sr+jr-cheap": both,
        **dict.fromkeys(_HYBRIDS, hybrid),
        "carried": {"eps_warmup": preset.eps_warmup},
        "carried+sr+jr": {
            "sr_weight": preset.carried_sr,
            "jr_weight": preset.carried_jr,
            "step_share": preset.carried_step,
            "penalty_warmup": preset.carried_warmup,
            "eps_warmup": preset.eps_warmup,
        },
        "free+sr+jr": {
            "pair": preset.free_pair,
            "sr_weight": preset.free_sr,
            "jr_weight": preset.free_jr,
            "step_share": preset.free_step,
            "penalty_fraction": preset.free_fraction,
        },
        "fire": {"weight": preset.fire},
        "graddiv": {"weight": preset.graddiv},
        "adv-bnn": {"kl_weight": preset.kl},
    }


RECIPES = {
    "digits": Recipe(
        model="cnn-small",
        eps={"linf": (0.1, 0.2), "l2": (0.5, 1.0), "l1": (1.0, 2.0)},
        epochs=12,
        batch_size=64,
        learning_rate=3e-3,
        test_size={"smoke": 200, "quick": 150, "full": 450},
        penalties=_penalties(PRESETS["digits"]),
        threads=1,
    ),
    "mnist": Recipe(
        model="cnn-small",
        eps={"linf": (0.1, 0.2, 0.3), "l2": (1.0, 1.5, 2.0), "l1": (5.0, 7.5, 10.0)},
        epochs=15,
        batch_size=128,
        learning_rate=3e-3,
        test_size={"smoke": 200, "quick": 1000, "full": 10000},
        penalties=_penalties(PRESETS["mnist"]),
        optimization=dict.fromkeys(("carried", "carried+sr+jr", "free+sr+jr"), _SGD),
    ),
    "cifar10": Recipe(
        model="resnet-small",
        eps={"linf": (2 / 255, 8 / 255), "l2": (0.25, 0.5), "l1": (4.0, 12.0)},
        epochs=20,
        batch_size=128,
        learning_rate=3e-3,
        test_size={"smoke": 100, "quick": 1000, "full": 10000},
        penalties=_penalties(PRESETS["cifar10"]),
    ),
}
# The user's own file: nothing is known about it, so moderate values.
FILE_RECIPE = Recipe(
    model="cnn-small",
    eps={"linf": (0.05, 0.1), "l2": (0.5, 1.0), "l1": (5.0, 10.0)},
    epochs=20,
    batch_size=128,
    learning_rate=3e-3,
    test_size={"smoke": 200, "quick": 1000, "full": 10000},
    # Penalties are measured per squared size of the perturbation: with a carried adversary they weigh as much as on
    # MNIST at 0.3, times the square of a third.
    penalties=_penalties(PenaltySettings(sigma=0.1, carried_sr=0.017, carried_jr=0.0017)),
)


@dataclass(frozen=True, kw_only=True)
class SuiteSettings:
    """
    The complete settings of a run; stored in `results.json` and compared when a run is resumed. Those not listed here
    are as in :class:`SuiteRequest`.

    :param attacks: Names of the attacks, in the order in which they run.
    :param threats: Norms and attack sizes; ART's adversarial trainers train at the first norm's largest size.
    :param train_size: Training images used, or None for all.
    :param test_size: Images attacked.
    :param data_crc32: Checksum of the images and labels used.
    :param device: `cpu` or `cuda`.
    :param network_crc32: Checksum of the user's files with the network and its weights, or None.
    :param penalties: The recipe's settings of the penalties of each defence, but those that its options replace: a
        later version may have others. None of a run that was stored before they were.
    """

    dataset: str
    defences: tuple[str, ...]
    attacks: tuple[str, ...]
    threats: Threats
    model: str
    activation: str
    norm_layer: str
    budget: str
    seeds: int
    epochs: int
    batch_size: int
    learning_rate: float
    train_size: int | None
    test_size: int
    validation: bool
    data_crc32: int
    device: str
    all_points: bool = False
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    weights: str | None = None
    network_crc32: int | None = None
    penalties: dict[str, dict[str, Any]] | None = None
    optimization: OptimizationSettings = OptimizationSettings()  # noqa: RUF009 - frozen

    def to_dict(self) -> dict[str, Any]:
        """The settings as stored in `results.json`."""
        values: dict[str, Any] = {}
        # The place of the two older entries: a page that shows the settings keeps its order.
        apart = {"threats": threats_to_dict(self.threats), "optimization": asdict(self.optimization)}
        for name, value in asdict(self).items():
            values.update(apart.get(name, {name: value}))
        values = {name: value for name, value in values.items() if value is not None or name not in _LATER}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def first_difference(self, stored: SuiteSettings) -> str | None:
        """
        The first difference from the settings of a stored run; defences with their options, attacks and seeds may be
        added to it.
        """
        ours, theirs = self.comparable(stored), stored.comparable(self)
        for name in {**ours, **theirs}:
            if theirs.get(name) != ours.get(name):
                return f"`{name}` was {theirs.get(name)!r} and is now {ours.get(name)!r}"
        return None

    def beside(self, stored: SuiteSettings) -> SuiteSettings:
        """These settings with the defences of a stored run that goes on, and their options."""
        names = tuple(dict.fromkeys((*stored.defences, *self.defences)))
        # What is not known of some is stored of none.
        penalties = None if stored.penalties is None else {**stored.penalties, **(self.penalties or {})}
        return replace(self, defences=names, options={**stored.options, **self.options}, penalties=penalties)

    def comparable(self, other: SuiteSettings) -> dict[str, Any]:
        """What must be the same in two runs of the same models: all but names, and the options of other defences."""
        # Through JSON and back: it knows no tuples.
        values: dict[str, Any] = json.loads(json.dumps(self.to_dict()))
        shared = {name for name in self.defences if name in other.defences}
        kept = {name: value for name, value in values["options"].items() if name in shared}
        both = self.penalties is not None and other.penalties is not None
        penalties = {name: value for name, value in values.pop("penalties", {}).items() if name in shared and both}
        free = ("defences", "attacks", "seeds")
        values = {name: value for name, value in values.items() if name not in free}
        return {**values, "options": kept, "penalties": penalties}
