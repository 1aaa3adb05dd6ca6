"""The defences of this package: which penalties, adversary and network each is."""

import pytest
import torch

from art_sensreg.adversaries import FGSMRS, NFGSM, PGD, TRADES, CarriedAdversary
from art_sensreg.benchmark.config.settings import RECIPES
from art_sensreg.benchmark.defences import DEFENCES
from art_sensreg.benchmark.defences.ours import OURS
from art_sensreg.benchmark.defences.registry import resolve_options
from art_sensreg.penalties import FisherRaoPenalty, GradientDiversityPenalty, JacobianPenalty, SensitivityPenalty
from art_sensreg.training.config import CHEAP_FRACTION
from tests.benchmark.defences.from_art.training import accuracy, small_spec

PENALTIES = {
    "none": [],
    "sr": [SensitivityPenalty],
    "jr": [JacobianPenalty],
    "sr+jr": [SensitivityPenalty, JacobianPenalty],
    "sr+jr-cheap": [SensitivityPenalty, JacobianPenalty],
    "fgsm-rs+sr+jr": [SensitivityPenalty, JacobianPenalty],
    "carried": [],
    "carried+sr+jr": [SensitivityPenalty, JacobianPenalty],
    "free+sr+jr": [SensitivityPenalty, JacobianPenalty],
    "n-fgsm": [],
    "n-fgsm+sr+jr": [SensitivityPenalty, JacobianPenalty],
    "at+sr+jr": [SensitivityPenalty, JacobianPenalty],
    "trades+sr+jr": [SensitivityPenalty, JacobianPenalty],
    "fire": [FisherRaoPenalty],
    "rse": [],
    "graddiv": [GradientDiversityPenalty],
    "pni": [],
}
ADVERSARIES = {
    "fgsm-rs+sr+jr": FGSMRS, "n-fgsm": NFGSM, "n-fgsm+sr+jr": NFGSM, "at+sr+jr": PGD, "trades+sr+jr": TRADES,
    "carried": CarriedAdversary, "carried+sr+jr": CarriedAdversary, "free+sr+jr": CarriedAdversary,
    "pni": PGD,
}  # fmt: skip


def options_of(name, **given):
    recipe = RECIPES["digits"].penalties.get(name, {})
    return resolve_options(name, given, {"eps": 0.1, "norm": "linf", **recipe})


def test_each_has_the_penalties_and_the_adversary_of_its_name():
    assert {defence.name for defence in OURS} == {*PENALTIES, "adv-bnn"}
    for name, kinds in PENALTIES.items():
        options = options_of(name)
        assert [type(penalty) for penalty in DEFENCES[name].penalties(options)] == kinds
        make = DEFENCES[name].adversary
        assert (None if make is None else type(make(options))) == ADVERSARIES.get(name)


def test_what_a_free_adversary_is_compared_with_is_that_of_the_data_set():
    for dataset, pair in (("digits", "noisy"), ("mnist", "adversarial")):
        recipe = RECIPES[dataset].penalties["free+sr+jr"]
        options = resolve_options("free+sr+jr", {}, {"eps": 0.1, "norm": "linf", **recipe})
        assert DEFENCES["free+sr+jr"].adversary(options).pair == pair
    chosen = resolve_options("free+sr+jr", {"pair": "noisy"}, {"eps": 0.1, "norm": "linf", **recipe})
    assert DEFENCES["free+sr+jr"].adversary(chosen).pair == "noisy"


@pytest.mark.parametrize(("dataset", "share", "fraction"), [("digits", 0.25, 1.0), ("mnist", 0.0625, 0.5)])
def test_the_step_of_a_free_adversary_is_a_share_of_its_eps(dataset, share, fraction):
    defence, recipe = DEFENCES["free+sr+jr"], RECIPES[dataset].penalties["free+sr+jr"]
    options = resolve_options("free+sr+jr", {}, {"eps": 0.1, "norm": "linf", **recipe})
    assert defence.adversary(options).step == pytest.approx(0.11 * share)
    assert options["penalty_fraction"] == fraction
    assert defence.adversary({**options, "eps_step": 0.02}).step == 0.02
    with pytest.raises(ValueError, match="`step_share` is 0"):
        defence.adversary({**options, "step_share": 0})


@pytest.mark.parametrize("name", ["carried", "carried+sr+jr"])
def test_the_step_of_a_carried_adversary_may_be_a_share_of_its_eps_too(name):
    options = options_of(name)
    assert DEFENCES[name].adversary(options).step == pytest.approx(0.055)
    assert DEFENCES[name].adversary({**options, "step_share": 0.125}).step == pytest.approx(0.11 / 8)


def test_options_of_sensitivity_regularisation_reach_its_penalty():
    (penalty,) = DEFENCES["sr"].penalties(options_of("sr", sr_weight=2.0, noise="uniform", sigma=0.2, probes=3))
    assert penalty == SensitivityPenalty(weight=2.0, noise="uniform", sigma=0.2, probes=3)
    with pytest.raises(ValueError, match="`noise` is 'pink'"):
        options_of("sr", noise="pink")


@pytest.mark.parametrize(("dataset", "noise", "fraction"), [("mnist", "rademacher", 0.5), ("digits", "gaussian", 1.0)])
@pytest.mark.parametrize("name", ["sr+jr", "sr+jr-cheap"])
def test_the_recipe_sets_the_noise_of_sr_and_jr_without_an_adversary(name, dataset, noise, fraction):
    options = resolve_options(name, {}, RECIPES[dataset].penalties[name])
    assert DEFENCES[name].penalties(options)[0].noise == noise
    assert options["penalty_fraction"] == (fraction if name == "sr+jr" else CHEAP_FRACTION)
    given = resolve_options(name, {"noise": "sphere"}, RECIPES[dataset].penalties[name])
    assert DEFENCES[name].penalties(given)[0].noise == "sphere"


@pytest.mark.parametrize("name", [name for name in PENALTIES if name.endswith(("+sr+jr", "sr+jr", "sr+jr-cheap"))])
def test_the_choices_of_sr_and_jr_are_options_of_every_defence_that_has_both(name):
    chosen = {
        "scale": "relative",
        "distance": "absolute",
        "top_layers": 2,
        "detach_clean": True,
        "layers": "hidden+logits",
    }
    options = options_of(name, **chosen, jr_norm="nuclear", jr_squared=False)
    sensitivity, jacobian = DEFENCES[name].penalties(options)
    assert {option: getattr(sensitivity, option) for option in chosen} == chosen
    assert (jacobian.norm, jacobian.squared) == ("nuclear", False)
    sensitivity, jacobian = DEFENCES[name].penalties(options_of(name))
    assert sensitivity == SensitivityPenalty(weight=sensitivity.weight, sigma=sensitivity.sigma)
    assert jacobian == JacobianPenalty(weight=jacobian.weight)


def test_the_step_of_fire_follows_its_size_and_number_of_steps():
    (penalty,) = DEFENCES["fire"].penalties(options_of("fire", max_iter=5))
    assert penalty.eps_step == pytest.approx(2.5 * 0.1 / 5)
    (penalty,) = DEFENCES["fire"].penalties(options_of("fire", eps_step=0.01))
    assert penalty.eps_step == 0.01


@pytest.mark.parametrize("name", ["rse", "graddiv", "adv-bnn", "pni"])
def test_networks_of_random_defences_are_random_at_test_time(digits, name):
    spec = small_spec(digits, model="cnn-small")
    model = DEFENCES[name].new_model(spec, options_of(name)).eval()
    x = torch.from_numpy(digits.x_test[:2])
    assert not torch.equal(model(x), model(x))
    assert DEFENCES[name].random is not None


@pytest.mark.parametrize("name", ["sr+jr", "adv-bnn"])
def test_they_learn(digits, name):
    spec = small_spec(digits, epochs=5, learning_rate=0.01)
    options = options_of(name, **({"max_iter": 1} if name == "adv-bnn" else {}))
    classifier = DEFENCES[name].train(spec, options)
    if name == "sr+jr":
        assert accuracy(spec, classifier.model) > 0.5
    else:
        assert (classifier.predict(digits.x_test).argmax(axis=1) == digits.y_test).mean() > 0.5


@pytest.mark.parametrize(("dataset", "share", "warmup"), [("mnist", 0.25, 0.5), ("digits", 0.5, 0.0)])
def test_the_recipe_sets_the_steps_of_the_carried_adversary_with_penalties(dataset, share, warmup):
    recipe = RECIPES[dataset].penalties["carried+sr+jr"]
    options = resolve_options("carried+sr+jr", {}, {"eps": 0.1, "norm": "linf", **recipe})
    assert DEFENCES["carried+sr+jr"].adversary(options).step == pytest.approx(0.11 * share)
    assert options["penalty_warmup"] == warmup


@pytest.mark.parametrize(("dataset", "warmup"), [("mnist", 0.3), ("digits", 0.0)])
@pytest.mark.parametrize("name", ["carried", "carried+sr+jr", "at", "trades", "fgsm-rs", "free+sr+jr"])
def test_the_size_of_each_adversary_may_rise_and_that_of_a_carried_one_does_on_mnist(digits, dataset, warmup, name):
    recipe = {"eps": 0.1, "norm": "linf", **RECIPES[dataset].penalties.get(name, {})}
    for given, expected in (({}, warmup if name in ("carried", "carried+sr+jr") else 0.0), ({"eps_warmup": 0.7}, 0.7)):
        found = []
        spec = small_spec(digits, epochs=1)
        object.__setattr__(spec, "fit", lambda trainer, found=found: found.append(trainer.config.eps_warmup))
        DEFENCES[name].train(spec, resolve_options(name, given, recipe))
        assert found == [expected]
