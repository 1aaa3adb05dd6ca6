"""Optimizers, schedules and averages against their formulas, and every defence against each of the settings."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg.benchmark.config import OptimizationSettings
from art_sensreg.benchmark.config.settings import RECIPES
from art_sensreg.benchmark.defences import DEFENCES, Defence, NotApplicable
from art_sensreg.benchmark.defences.optimization import (
    NotFollowedError,
    OptimizerHooks,
    make_optimizer,
    make_schedule,
    resolved,
    scheduled_values,
)
from art_sensreg.benchmark.defences.registry import resolve_options
from art_sensreg.benchmark.engine.runtime import quiet
from tests.benchmark.defences.from_art.training import small_spec, trained
from tests.conftest import same_weights, weights_of

SETTINGS: dict[str, dict[str, Any]] = {
    "optimizer": {"optimizer": "sgd"},
    "momentum": {"optimizer": "sgd", "momentum": 0.5},
    "weight_decay": {"weight_decay": 0.1},
    "label_smoothing": {"label_smoothing": 0.2},
    "schedule": {"schedule": "piecewise"},
    "weight_average": {"weight_average": 0.9},
    "max_grad_norm": {"max_grad_norm": 0.01},
    "precision": {"precision": "bfloat16"},
    "augment": {"augment": "crop=2,flip,cutout=3"},
}


def one_step(settings: OptimizationSettings, w: float = 2.0, gradient: float = 3.0, steps: int = 1) -> float:
    weight = nn.Parameter(torch.tensor([w], dtype=torch.float64))
    optimizer = make_optimizer([weight], 0.1, settings)
    for _ in range(steps):
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step()
    return weight.item()


def test_weight_decay_and_momentum_follow_their_formulas():
    made = OptimizationSettings
    assert one_step(made(optimizer="sgd", weight_decay=0.5)) == pytest.approx(2 - 0.1 * (3 + 0.5 * 2))
    # Two steps with momentum 0.8: the second moves by g + 0.8 g.
    assert one_step(made(optimizer="sgd", momentum=0.8), steps=2) == pytest.approx(2 - 0.1 * 3 - 0.1 * 1.8 * 3)
    assert one_step(made(optimizer="sgd"), steps=2) == pytest.approx(2 - 0.1 * 3 - 0.1 * 1.9 * 3)
    # The first step of Adam is the sign of its gradient, to which the decay belongs; AdamW decays apart.
    assert one_step(made(weight_decay=0.5), gradient=-0.5) == pytest.approx(2 - 0.1)
    assert one_step(made(optimizer="adamw", weight_decay=0.5)) == pytest.approx(2 * (1 - 0.1 * 0.5) - 0.1)


def test_what_is_not_asked_for_is_the_defences_own():
    own = OptimizationSettings(optimizer="sgd", momentum=0.9, weight_decay=5e-4)
    assert resolved(OptimizationSettings(), own) == own
    assert resolved(OptimizationSettings(weight_decay=0.0), own).weight_decay == 0.0
    assert resolved(OptimizationSettings(optimizer="adam"), own).momentum is None


def test_schedules_follow_their_formulas():
    def rates(schedule: str, steps: int, peak: float = 0.4) -> list[float]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak, momentum=0.9)
        return [values["lr"] for values in scheduled_values(optimizer, schedule, steps)]

    assert rates("piecewise", 8) == pytest.approx([0.4] * 4 + [0.04] * 2 + [0.004] * 2)
    assert rates("piecewise", 5) == pytest.approx([0.4] * 3 + [0.04, 0.004])  # not before half of them
    assert rates("piecewise", 1) == [0.4]
    assert rates("constant", 5) == [0.4] * 5
    # Up from a 25th over 0.3 of the steps, then down to a 10,000th of the first rate, each along half a cosine.
    steps, top = 20, 0.3 * 21 - 1

    def half_cosine(start: float, end: float, done: float) -> float:
        return end + (start - end) / 2 * (1 + math.cos(math.pi * done))

    first, last = 0.4 / 25, 0.4 / 25 / 1e4
    expected = [
        half_cosine(first, 0.4, step / top) if step <= top else half_cosine(0.4, last, (step - top) / (20 - top))
        for step in range(steps)
    ]
    assert rates("one-cycle", steps) == pytest.approx(expected)


def test_sgd_keeps_the_momentum_that_was_asked_for():
    optimizer = make_optimizer([nn.Parameter(torch.zeros(1))], 0.1, OptimizationSettings(optimizer="sgd", momentum=0.5))
    make_schedule(optimizer, "one-cycle", 10)
    assert optimizer.param_groups[0]["momentum"] == 0.5


class Batches:
    """A training loop that knows of no schedule, and writes a rate of its own before each step."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.4)
        self.rates: list[float] = []
        self.states: list[dict[str, torch.Tensor]] = []

    def step(self) -> None:
        self.optimizer.param_groups[0]["lr"] = 7.0
        self.optimizer.zero_grad()
        self.model(torch.randn(6, 3)).pow(2).mean().backward()
        self.optimizer.register_step_post_hook(lambda *_: self.rates.append(self.optimizer.param_groups[0]["lr"]))
        self.optimizer.step()
        self.states.append(copy.deepcopy(self.model.state_dict()))


def test_hooks_win_over_a_trainers_own_rates_and_average_weights_and_statistics():
    loop = Batches()
    settings = OptimizationSettings(schedule="piecewise", weight_average=0.7)
    hooks = OptimizerHooks(loop.model, settings, steps=8)
    hooks.attach(loop.optimizer)
    for _ in range(4):
        loop.step()
    loop.optimizer = torch.optim.SGD(loop.model.parameters(), lr=0.4)  # as ART's OAAT does
    for _ in range(4):
        hooks.attach(loop.optimizer)
        loop.step()
    hooks.finish()
    assert sorted(set(loop.rates), reverse=True) == pytest.approx([0.4, 0.04, 0.004])
    average = {name: value.double() for name, value in loop.states[0].items()}
    for done, state in enumerate(loop.states[1:], start=1):
        decay = min(0.7, (1 + done) / (10 + done))
        average = {name: decay * value + (1 - decay) * state[name].double() for name, value in average.items()}
    found = loop.model.state_dict()
    for name in average:
        if "num_batches" not in name:
            assert torch.allclose(found[name].double(), average[name], atol=1e-6), name
    assert not torch.equal(found["1.running_mean"], loop.states[-1]["1.running_mean"])
    before = len(loop.rates)
    loop.step()  # nobody follows any more
    assert loop.rates[before] == 7.0


def test_hooks_clip_the_gradient_of_all_weights():
    model = nn.Linear(2, 1, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    hooks = OptimizerHooks(model, OptimizationSettings(max_grad_norm=0.5), steps=2)
    hooks.attach(optimizer)
    for gradient, expected in ((3.0, 0.5 / math.sqrt(27) * 3), (0.1, 0.1)):  # of three weights; short ones stay
        before = [weight.detach().clone() for weight in model.parameters()]
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
        for old, new in zip(before, model.parameters(), strict=True):
            assert torch.allclose(old - new, torch.full_like(old, expected), atol=1e-6)
    hooks.finish()


def test_steps_that_no_schedule_was_laid_out_for_are_no_result():
    loop = Batches()
    hooks = OptimizerHooks(loop.model, OptimizationSettings(schedule="constant"), steps=3)
    hooks.attach(loop.optimizer)
    loop.step()
    with pytest.raises(NotFollowedError, match="1 steps with its optimizer, and not 3"):
        hooks.finish()
    hooks = OptimizerHooks(loop.model, OptimizationSettings(weight_decay=0.1), steps=3)
    hooks.attach(loop.optimizer)  # and then the trainer makes its own
    with pytest.raises(NotFollowedError, match="0 steps"):
        hooks.finish()


def fitted(digits: Any, name: str, **settings: Any) -> Any:
    model = "cnn-small" if "oaat" in name else "mlp"
    asked = OptimizationSettings(**settings)
    spec = small_spec(digits, n=24, model=model, epochs=2, batch_size=12, optimization=asked)
    options = resolve_options(name, {}, {"eps": 0.1, "norm": "linf", **RECIPES["digits"].penalties.get(name, {})})
    small = {"max_iter": 1, "least_steps": 1, "width": 2, "replays": 2}
    options.update({option: value for option, value in small.items() if option in options})
    with quiet():
        return trained(DEFENCES[name].train, spec, options)


LOOPS = ["sr+jr", "art-adversarial", "art-trades-fixed", "art-fbf", "art-fbf-fixed", "art-awp", "art-oaat-fixed",
         "art-dp-instahide", "art-label-smoothing", "art-distillation", "art-ibp-fixed", "art-smoothing", "art-macer",
         "art-smoothadv", "art-smoothmix-fixed"]  # fmt: skip
OTHERS = [name for name, defence in DEFENCES.items() if defence.trained and name not in LOOPS]
# SGD with 0.9 is their own.
SGD_ALREADY = {"art-fbf", "art-fbf-fixed", "art-oaat", "art-oaat-fixed"}
# Their penalties divide by eps, so small here that the pass is in float32 whatever was asked for.
FINE = {"fgsm-rs+sr+jr", "n-fgsm+sr+jr", "at+sr+jr", "trades+sr+jr", "fgsm-pgi"}
# What cannot be had, and why.
NOT = {
    ("art-ibp-fixed", "label_smoothing"), ("art-ibp", "label_smoothing"), ("art-deepz-fixed", "label_smoothing"),
    ("art-deepz-fixed", "augment"),
    ("art-macer", "label_smoothing"), ("art-smoothmix", "label_smoothing"), ("art-smoothmix-fixed", "label_smoothing"),
}  # fmt: skip


@pytest.mark.parametrize("name", [*LOOPS, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_each_setting_changes_the_weights_or_is_not_applicable(digits: Any, name: str) -> None:
    try:
        found = [weights_of(fitted(digits, name))]
    except NotApplicable:
        return
    for setting, values in SETTINGS.items():
        if (name, setting) in NOT:
            with pytest.raises(NotApplicable, match=rf"`{setting}`: ART (computes|takes) .*\({name}.{setting}=None "):
                fitted(digits, name, **values)
            continue
        if setting == "precision" and name.startswith("art-"):
            with pytest.raises(NotApplicable, match=rf"`{setting}`: the training of {name} does not take it"):
                fitted(digits, name, **values)
            continue
        if setting == "optimizer" and name in SGD_ALREADY:
            continue
        if setting == "precision" and name in FINE:
            continue
        weights = weights_of(fitted(digits, name, **values))
        assert not any(same_weights(weights, other) for other in found), setting
        found.append(weights)


@pytest.mark.parametrize("name", ["none", "art-madry"])
def test_the_schedule_of_their_own_is_the_one_cycle(digits: Any, name: str) -> None:
    own, asked = fitted(digits, name), fitted(digits, name, schedule="one-cycle", optimizer="adam", weight_decay=0.0)
    assert same_weights(weights_of(own), weights_of(asked))


def test_what_arts_trainers_replace_is_not_applicable(digits: Any) -> None:
    with pytest.raises(NotApplicable, match=r"shortens gradients to 0\.5"):
        fitted(digits, "art-fbf", max_grad_norm=0.6)
    own, longer = fitted(digits, "art-fbf-fixed"), fitted(digits, "art-fbf-fixed", max_grad_norm=0.6)
    assert not same_weights(weights_of(own), weights_of(longer))
    for name, reason in (("art-oaat", "replaces its optimizer by SGD"), ("art-fbf", "rates up to 0.21")):
        with pytest.raises(NotApplicable, match=reason):
            fitted(digits, name, optimizer="adam")
    with pytest.raises(NotApplicable, match="convert Adam and SGD only"):
        fitted(digits, "art-ibp-fixed", optimizer="adamw")
    assert fitted(digits, "art-fbf", optimizer="adam", schedule="constant")


def test_the_average_of_weight_perturbation_is_of_unperturbed_weights(digits: Any) -> None:
    # So heavy an average that the first step, of which there are two a run, nearly stays: its weights are not shifted
    # by the perturbation, from which the optimizer steps.
    plain = np.concatenate([w.numpy().ravel() for w in weights_of(fitted(digits, "art-awp", optimizer="sgd"))])
    averaged = weights_of(fitted(digits, "art-awp", optimizer="sgd", weight_average=0.999))
    start = weights_of(small_spec(digits, n=24).classifier())
    assert not same_weights(averaged, start)
    moved = np.abs(np.concatenate([w.numpy().ravel() for w in averaged]) - plain).max()
    assert moved < 0.02


def test_a_training_that_takes_no_notice_is_not_applicable(digits: Any) -> None:
    def stubborn(spec: Any, options: Any) -> Any:
        model = spec.new_model()
        return spec.estimator(type(spec.classifier()), model, torch.optim.SGD(model.parameters(), lr=0.1))

    spec = small_spec(digits, optimization=OptimizationSettings(weight_decay=0.1))
    with pytest.raises(NotApplicable, match="`weight_decay`: the training of mine does not take it"):
        Defence("mine", "", "", training=stubborn).train(spec, {})
    Defence("mine", "", "", training=stubborn).train(small_spec(digits), {})


def test_what_changes_no_training_is_taken_by_all(digits: Any) -> None:
    def stubborn(spec: Any, options: Any) -> Any:
        return spec.classifier()

    neutral = OptimizationSettings(precision="float32", label_smoothing=0.0)
    for fixed in ({}, {"label_smoothing": "its loss is its own"}):
        Defence("mine", "", "", training=stubborn, fixed=fixed).train(small_spec(digits, optimization=neutral), {})
    half = small_spec(digits, optimization=OptimizationSettings(precision="float16"))
    with pytest.raises(NotApplicable, match="`precision`: the training of mine"):
        Defence("mine", "", "", training=stubborn).train(half, {})
    with pytest.raises(NotApplicable, match="`precision`: float16 scales the gradients"):
        DEFENCES["at-awp"].train(half, resolve_options("at-awp", {}, {"eps": 0.1, "norm": "linf"}))


def test_labels_are_smoothed_in_training_and_not_in_evaluation(digits: Any) -> None:
    spec = small_spec(digits, optimization=OptimizationSettings(label_smoothing=0.3))
    logits, y = torch.randn(5, 10, dtype=torch.float64), torch.arange(5)
    smoothed = 0.7 * nn.functional.one_hot(y, 10) + 0.03
    by_hand = -(smoothed * logits.log_softmax(1)).sum(1).mean()
    for classifier in (spec.trainee(spec.new_model()), spec.art_classifier()):
        assert torch.allclose(classifier.loss(logits, y), by_hand)
    assert torch.allclose(spec.classifier().loss(logits, y), nn.functional.cross_entropy(logits, y))
